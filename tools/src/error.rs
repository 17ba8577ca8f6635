//! What can keep the tool from doing its job, how it says so and how it exits.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use cairn_api::{ErrorBody, ErrorDetail, Exit, Reply};

use crate::cli::Format;

/// An error of the tool. Each names the thing and has a next step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// Nobody listens on the admin socket, or nobody answers there.
    #[error("cairnd can't be reached at {}: {reason}", socket.display())]
    Unreachable {
        socket: PathBuf,
        reason: String,
        hint: String,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(ErrorDetail),
    /// The daemon's answer isn't what this version understands.
    #[error("cairnd at {} gave an answer that isn't understood: {what}", socket.display())]
    Protocol { socket: PathBuf, what: String },
    /// The command line asks for something that can't be.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// The job wasn't done.
    #[error("{message}")]
    Failed {
        message: String,
        hint: String,
        exit: Exit,
    },
    /// Whoever read our output has gone away.
    #[error("the reader of the output has gone away")]
    ReaderGone,
}

impl ToolError {
    /// A failure without a better hint than its message.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::failed_with(message, "")
    }

    /// A failure with its next step.
    pub(crate) fn failed_with(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            hint: hint.into(),
            exit: Exit::Failed,
        }
    }

    /// A usage error with its next step.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// How the tool exits.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::Refused(detail) => detail.code.exit(),
            Self::Protocol { .. } => Exit::Failed,
            Self::Usage { .. } => Exit::Usage,
            Self::Failed { exit, .. } => *exit,
            Self::ReaderGone => Exit::Done,
        }
    }

    fn hint(&self) -> &str {
        match self {
            Self::Unreachable { hint, .. }
            | Self::Usage { hint, .. }
            | Self::Failed { hint, .. } => hint,
            Self::Refused(detail) => &detail.hint,
            Self::Protocol { .. } => {
                "compare `cairn --version` with the daemon's; the socket may also belong to \
                 another program"
            }
            Self::ReaderGone => "",
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused(detail) => detail.code.as_str(),
            Self::Protocol { .. } => "protocol",
            Self::Usage { .. } => "usage",
            Self::Failed { .. } => "failed",
            Self::ReaderGone => "reader_gone",
        }
    }

    /// The lines for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("cairn: {self}\n");
        if !self.hint().is_empty() {
            let _ = writeln!(text, "  next: {}", self.hint());
        }
        text
    }

    /// The same in the shape of the API's errors.
    pub(crate) fn json(&self) -> serde_json::Value {
        match self {
            Self::Refused(detail) => serde_json::to_value(Reply::of(ErrorBody {
                error: detail.clone(),
            }))
            .unwrap_or_default(),
            // Codes of the tool itself are no `ErrorCode`s: the daemon never sends them.
            _ => serde_json::json!({
                "schema": cairn_api::SCHEMA,
                "error": { "code": self.code(), "message": self.to_string(), "hint": self.hint() },
            }),
        }
    }

    /// Writes it to stderr, as JSON where JSON was asked for.
    pub(crate) fn report(&self, format: Format) {
        let text = match (self, format) {
            (Self::ReaderGone, _) => return,
            (_, Format::Json) => format!("{}\n", self.json()),
            _ => self.text(),
        };
        // Nobody is left to tell if stderr is closed too.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_api::ErrorCode;

    fn refusal(code: ErrorCode) -> ToolError {
        ToolError::Refused(ErrorDetail {
            code,
            message: "no array named pool".to_owned(),
            hint: "cairn array list".to_owned(),
        })
    }

    #[test]
    fn exit_codes_tell_refusal_failed_array_usage_and_silence_apart() {
        assert_eq!(refusal(ErrorCode::UnknownArray).exit().code(), 1);
        assert_eq!(refusal(ErrorCode::ArrayFailed).exit().code(), 2);
        assert_eq!(refusal(ErrorCode::InvalidArgument).exit().code(), 3);
        assert_eq!(ToolError::usage("x", "y").exit().code(), 3);
        let silent = ToolError::Unreachable {
            socket: PathBuf::from("/s"),
            reason: String::new(),
            hint: String::new(),
        };
        assert_eq!(silent.exit().code(), 4);
        assert_eq!(ToolError::ReaderGone.exit().code(), 0);
    }

    #[test]
    fn an_error_names_the_thing_and_the_next_step() {
        assert_eq!(
            refusal(ErrorCode::UnknownArray).text(),
            "cairn: no array named pool\n  next: cairn array list\n"
        );
        assert_eq!(
            refusal(ErrorCode::UnknownArray).json().to_string(),
            r#"{"error":{"code":"unknown_array","hint":"cairn array list","message":"no array named pool"},"schema":1}"#
        );
    }
}
