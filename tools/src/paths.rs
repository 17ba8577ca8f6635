//! Paths as the daemon needs them: absolute, because its working directory isn't ours.
//!
//! The directory is resolved, the last component is not: `/dev/disk/by-id/…` keeps the name that
//! the operator chose.

use std::path::Path;

use crate::error::ToolError;

/// `path` as an absolute path in UTF-8.
pub(crate) fn absolute(path: &Path) -> Result<String, ToolError> {
    // A member that is gone has no path; its UUID names it.
    if let Some(uuid) = path.to_str().filter(|text| is_uuid(text)) {
        return Ok(uuid.to_owned());
    }
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            parent.canonicalize().ok().map(|dir| dir.join(name))
        }
        _ => None,
    };
    // A directory that isn't there (a disk pulled out) leaves only the words as they stand.
    let resolved = match resolved {
        Some(resolved) => resolved,
        None => std::path::absolute(path).map_err(|source| {
            ToolError::usage(
                format!("{} is no path: {source}", path.display()),
                "give the path of a disk or a file",
            )
        })?,
    };
    resolved.into_os_string().into_string().map_err(|raw| {
        ToolError::usage(
            format!("the path {} isn't UTF-8", raw.display()),
            "make a link with a plain name to it and use that",
        )
    })
}

/// [`absolute`] of each.
pub(crate) fn all_absolute<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<String>, ToolError> {
    paths.iter().map(|path| absolute(path.as_ref())).collect()
}

/// Whether `text` is a UUID in its usual form: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let parts = text.split('-');
    parts.clone().map(str::len).eq([8, 4, 4, 4, 12])
        && parts
            .flat_map(str::bytes)
            .all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_resolved_and_a_link_keeps_its_own_name() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(
            absolute(Path::new("d0")).unwrap(),
            here.join("d0").to_str().unwrap()
        );
        assert_eq!(
            absolute(Path::new("./src/../d0")).unwrap(),
            here.join("d0").to_str().unwrap()
        );
        // /proc/self is a link: its own name stays.
        assert_eq!(absolute(Path::new("/proc/self")).unwrap(), "/proc/self");
    }

    #[test]
    fn a_path_whose_directory_is_gone_stays_as_it_was_written() {
        assert_eq!(
            absolute(Path::new("/no/such/dir/d0")).unwrap(),
            "/no/such/dir/d0"
        );
    }

    #[test]
    fn a_uuid_is_left_alone_and_a_file_name_is_not() {
        let uuid = "0b9cf0c6-9d0c-4f0e-8a63-3f9b4be5d0a1";
        assert_eq!(absolute(Path::new(uuid)).unwrap(), uuid);
        assert!(absolute(Path::new("0b9cf0c6-d0")).unwrap().starts_with('/'));
    }
}
