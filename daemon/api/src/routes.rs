//! The route table: paths as the server registers them, and functions that fill them in.
//!
//! Names stand in paths unescaped, because [`crate::validate_name`] leaves nothing to escape;
//! the functions here escape all the same, so that a wrong name is the daemon's 404 and not
//! another route. Disks are named by path in the body or the query.

/// How a request is made: reads are `Get`, everything that may change something is `Post`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST with a JSON body.
    Post,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// How.
    pub method: Method,
    /// Where, with `{name}` for the one variable part.
    pub path: &'static str,
}

const fn get(path: &'static str) -> Route {
    Route {
        method: Method::Get,
        path,
    }
}

const fn post(path: &'static str) -> Route {
    Route {
        method: Method::Post,
        path,
    }
}

/// → the text that Prometheus reads: the one route that isn't JSON.
pub const METRICS: Route = get("/metrics");
/// → [`crate::Version`].
pub const VERSION: Route = get("/v1/version");
/// → [`crate::Status`].
pub const STATUS: Route = get("/v1/status");
/// → [`crate::Health`].
pub const HEALTH: Route = get("/v1/health");
/// → [`crate::Df`].
pub const DF: Route = get("/v1/df");
/// [`crate::EventsQuery`] → [`crate::EventPage`].
pub const EVENTS: Route = get("/v1/events");

/// → [`crate::ArrayList`].
pub const ARRAYS: Route = get("/v1/arrays");
/// [`crate::CreateArray`] → [`crate::Changed`] with `array`.
pub const ARRAY_CREATE: Route = post("/v1/arrays");
/// → [`crate::Array`].
pub const ARRAY: Route = get("/v1/arrays/{name}");
/// [`crate::StopArray`] → [`crate::Changed`].
pub const ARRAY_STOP: Route = post("/v1/arrays/{name}/stop");
/// [`crate::AssembleArray`] → [`crate::Changed`] with `array`. The name may be a UUID.
pub const ARRAY_ASSEMBLE: Route = post("/v1/arrays/{name}/assemble");
/// [`crate::DestroyArray`] → [`crate::Changed`].
pub const ARRAY_DESTROY: Route = post("/v1/arrays/{name}/destroy");
/// [`crate::ScrubArray`] → [`crate::Changed`] with `array`.
pub const ARRAY_SCRUB: Route = post("/v1/arrays/{name}/scrub");
/// [`crate::SpareChange`] → [`crate::Changed`] with `array`.
pub const SPARE_ADD: Route = post("/v1/arrays/{name}/spares/add");
/// [`crate::SpareChange`] → [`crate::Changed`] with `array`.
pub const SPARE_REMOVE: Route = post("/v1/arrays/{name}/spares/remove");

/// → [`crate::DiskList`].
pub const DISKS: Route = get("/v1/disks");
/// [`crate::DiskQuery`] → [`crate::Disk`].
pub const DISK: Route = get("/v1/disk");
/// [`crate::AddDisks`] → [`crate::Changed`].
pub const DISK_ADD: Route = post("/v1/disks/add");
/// [`crate::FailDisk`] → [`crate::Changed`].
pub const DISK_FAIL: Route = post("/v1/disks/fail");
/// [`crate::RemoveDisk`] → [`crate::Changed`].
pub const DISK_REMOVE: Route = post("/v1/disks/remove");
/// [`crate::ReplaceDisk`] → [`crate::Changed`].
pub const DISK_REPLACE: Route = post("/v1/disks/replace");
/// [`crate::WipeDisk`] → [`crate::Changed`].
pub const DISK_WIPE: Route = post("/v1/disks/wipe");

/// → [`crate::VolumeList`].
pub const VOLUMES: Route = get("/v1/volumes");
/// [`crate::CreateVolume`] → [`crate::Changed`] with `volume`.
pub const VOLUME_CREATE: Route = post("/v1/volumes");
/// → [`crate::Volume`].
pub const VOLUME: Route = get("/v1/volumes/{name}");
/// [`crate::ResizeVolume`] → [`crate::Changed`] with `volume`.
pub const VOLUME_RESIZE: Route = post("/v1/volumes/{name}/resize");
/// [`crate::DeleteVolume`] → [`crate::Changed`].
pub const VOLUME_DELETE: Route = post("/v1/volumes/{name}/delete");
/// [`crate::ExportVolume`] → [`crate::Changed`] with `volume`.
pub const VOLUME_EXPORT: Route = post("/v1/volumes/{name}/export");
/// [`crate::UnexportVolume`] → [`crate::Changed`] with `volume`.
pub const VOLUME_UNEXPORT: Route = post("/v1/volumes/{name}/unexport");

/// Every route, for the server's registration test.
pub const ALL: [Route; 29] = [
    METRICS,
    VERSION,
    STATUS,
    HEALTH,
    DF,
    EVENTS,
    ARRAYS,
    ARRAY_CREATE,
    ARRAY,
    ARRAY_STOP,
    ARRAY_ASSEMBLE,
    ARRAY_DESTROY,
    ARRAY_SCRUB,
    SPARE_ADD,
    SPARE_REMOVE,
    DISKS,
    DISK,
    DISK_ADD,
    DISK_FAIL,
    DISK_REMOVE,
    DISK_REPLACE,
    DISK_WIPE,
    VOLUMES,
    VOLUME_CREATE,
    VOLUME,
    VOLUME_RESIZE,
    VOLUME_DELETE,
    VOLUME_EXPORT,
    VOLUME_UNEXPORT,
];

impl Route {
    /// The path with `name` in its variable part.
    pub fn with_name(self, name: &str) -> String {
        self.path.replace("{name}", &encode(name))
    }

    /// The path with a query of `pairs` whose value is there.
    pub fn with_query(self, pairs: &[(&str, Option<String>)]) -> String {
        let mut out = self.path.to_owned();
        let mut separator = '?';
        for (key, value) in pairs {
            if let Some(value) = value {
                out.push(separator);
                out.push_str(key);
                out.push('=');
                out.push_str(&encode(value));
                separator = '&';
            }
        }
        out
    }
}

fn encode(text: &str) -> String {
    crate::volume::percent_encode(text).replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_routes_are_the_same() {
        for (i, a) in ALL.iter().enumerate() {
            assert!(ALL.iter().skip(i + 1).all(|b| a != b), "{a:?}");
        }
    }

    #[test]
    fn a_name_cannot_become_another_route() {
        assert_eq!(ARRAY.with_name("a/stop?x"), "/v1/arrays/a%2Fstop%3Fx");
        assert_eq!(ARRAY_STOP.with_name("pool"), "/v1/arrays/pool/stop");
        assert_eq!(
            DISK.with_query(&[("path", Some("/dev/a b&c".to_owned())), ("x", None)]),
            "/v1/disk?path=%2Fdev%2Fa%20b%26c"
        );
        assert_eq!(EVENTS.with_query(&[("after", None)]), "/v1/events");
    }
}
