//! What keeps the daemon from starting, or ends it. Answers to requests are [`crate::refuse`]'s.

use std::path::PathBuf;

use cairn_replication::StoreError;

/// Why the daemon doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration is refused; `place` is the file, with line and column where known.
    #[error("{place}: {message}")]
    Config {
        /// `file` or `file:line:column`.
        place: String,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The state directory, or a file of the daemon's own in it, can't be used.
    #[error("{}: {message}", path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// What happened.
        message: String,
    },
    /// Another daemon runs on the state directory.
    #[error(
        "{}: another cairnd{} runs on this state directory: stop it, or give this one a directory \
         of its own with --state-dir", path.display(), pid_text(*pid)
    )]
    SecondDaemon {
        /// The directory.
        path: PathBuf,
        /// The other's process id, if it could be read.
        pid: Option<i32>,
    },
    /// The admin socket's path doesn't fit a socket address.
    #[error(
        "{}: a socket path of {len_bytes} bytes: the kernel takes at most {max}; use a shorter \
         state directory, or set `socket` in the configuration", path.display(),
        max = crate::config::SOCKET_PATH_MAX_BYTES
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        len_bytes: usize,
    },
    /// The admin socket can't be opened.
    #[error("{}: {message}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What happened, and what to do.
        message: String,
    },
    /// The metadata store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in the metadata store can't be understood.
    #[error(
        "metadata store: the record `{key}` can't be read ({message}): it was written by a newer \
         release, or is damaged. Run that release; or move meta.redb away: `cairn array assemble \
         NAME --scan PATH…` brings arrays and volumes back, exports are made anew"
    )]
    Record {
        /// The record's key.
        key: String,
        /// What the parser said.
        message: String,
    },
    /// The system refused something that the daemon can't do without.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// The system's answer.
        error: std::io::Error,
    },
}

fn pid_text(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}
