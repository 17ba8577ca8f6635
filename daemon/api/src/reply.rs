//! The envelope of every successful reply: the schema number beside the body's own fields.

use serde::{Deserialize, Serialize};

/// The version of the JSON that this crate describes.
pub const SCHEMA: u32 = 1;

/// A body with `schema` beside its fields: `{"schema":1, …body}`.
///
/// The body is a struct, never a bare list, so that fields can be added later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<T> {
    /// Version of the JSON; [`SCHEMA`] here.
    pub schema: u32,
    /// The reply itself, its fields on the same level as `schema`.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Reply<T> {
    /// `body` under the current schema.
    pub const fn of(body: T) -> Self {
        Self {
            schema: SCHEMA,
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Df, Version};

    #[test]
    fn schema_stands_beside_the_fields_of_the_body() {
        let text = serde_json::to_string(&Reply::of(Df { rows: Vec::new() })).unwrap();
        assert_eq!(text, r#"{"schema":1,"rows":[]}"#);
    }

    #[test]
    fn a_reply_with_fields_of_a_later_version_is_still_read() {
        let text = r#"{"schema":1,"version":"0.1.0","pid":7,"state_dir":"/s","socket":"/s/a",
            "started_unix_ms":18446744073709551615,"uptime_seconds":2,"new_field":[1]}"#;
        let reply: Reply<Version> = serde_json::from_str(text).unwrap();
        assert_eq!(reply.body.pid, 7);
        assert_eq!(reply.body.started_unix_ms, u64::MAX);
    }
}
