//! A cairnd of a test's own: its state directory, its process, its admin socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_api::routes::{self, Method, Route};
use cairn_api::{Array, Changed, CreateArray, CreateVolume, ErrorBody, ErrorDetail, Level, Reply};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Size of a test's disks.
pub(crate) const DISK_MIB: u64 = 128;

/// A directory that goes with its value. Its name is short: sockets lie in it.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cairnd-{}-{next}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A disk of `mib` MiB, as a sparse file.
    pub(crate) fn disk(&self, name: &str, mib: u64) -> String {
        let path = self.join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(mib << 20).unwrap();
        path.display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// The command, with an environment that no developer's settings reach.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairnd"));
    command
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("JOURNAL_STREAM");
    command
}

/// Runs it to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

/// A running daemon; killed if the test forgets it.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts it on `state_dir` and waits for READY: all arrays decided.
    pub(crate) fn start(state_dir: &Path) -> Self {
        let arguments = ["--state-dir", state_dir.to_str().unwrap()];
        Self::start_with(&arguments, &state_dir.join("cairnd.sock"))
    }

    /// Starts it with these arguments and waits for READY.
    pub(crate) fn start_with(arguments: &[&str], socket: &Path) -> Self {
        let mut child = command()
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            if log.read_line(&mut line).unwrap() == 0 {
                let status = child.wait().unwrap();
                panic!("cairnd ended with {status} before it was ready:\n{seen}");
            }
            seen.push_str(&line);
            if line.trim_end().ends_with(": ready") {
                break;
            }
        }
        // The rest of the log is shown with the test's own output.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                eprintln!("cairnd: {line}");
            }
        });
        Self {
            child,
            socket: socket.to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// SIGHUP.
    pub(crate) fn reload(&self) {
        self.signal("-HUP");
    }

    /// SIGTERM, and its exit status.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.child.wait().unwrap()
    }

    /// SIGKILL: nothing is written any more.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// One request: the HTTP status and the body.
    pub(crate) fn raw(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: cairn\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        // A server that refuses a long body may have closed already.
        stream.write_all(body).ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// A request as the tool makes it.
    pub(crate) fn ask<T: DeserializeOwned>(
        &self,
        route: Route,
        name: &str,
        body: &impl Serialize,
    ) -> Result<T, ErrorDetail> {
        let method = match route.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let body = match route.method {
            Method::Get => Vec::new(),
            Method::Post => serde_json::to_vec(body).unwrap(),
        };
        let (status, text) = self.raw(method, &route.with_name(name), &body);
        if status == 200 {
            let reply: Reply<T> = serde_json::from_str(&text).unwrap();
            return Ok(reply.body);
        }
        let reply: Reply<ErrorBody> = serde_json::from_str(&text).unwrap();
        assert_eq!(reply.body.error.code.http_status(), status);
        Err(reply.body.error)
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, route: Route, name: &str) -> T {
        self.ask(route, name, &()).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A change that may be refused.
pub(crate) fn change(
    daemon: &Daemon,
    route: Route,
    name: &str,
    body: &impl Serialize,
) -> Result<Changed, ErrorDetail> {
    daemon.ask(route, name, body)
}

/// A change that succeeds.
pub(crate) fn done(daemon: &Daemon, route: Route, name: &str, body: &impl Serialize) -> Changed {
    change(daemon, route, name, body).unwrap()
}

/// The array `pool` of the files d0 to d3, and spares s0, ….
pub(crate) fn raid6(daemon: &Daemon, dir: &TempDir, spares: usize) -> Array {
    let disks = |kind: &str, count: usize| -> Vec<String> {
        (0..count)
            .map(|i| dir.disk(&format!("{kind}{i}"), DISK_MIB))
            .collect()
    };
    let request = CreateArray {
        name: "pool".into(),
        level: Level::Raid6,
        disks: disks("d", 4),
        spares: disks("s", spares),
        chunk_bytes: Some(64 << 10),
        journal_bytes: None,
        integrity: cairn_api::Integrity::default(),
        journal_disks: Vec::new(),
        no_journal: false,
        wipe: Vec::new(),
        dry_run: false,
    };
    done(daemon, routes::ARRAY_CREATE, "", &request)
        .array
        .unwrap()
}

/// Makes a volume in it.
pub(crate) fn volume(daemon: &Daemon, name: &str, size_bytes: u64) -> Changed {
    let request = CreateVolume {
        name: name.into(),
        array: "pool".into(),
        size_bytes,
        dry_run: false,
    };
    done(daemon, routes::VOLUME_CREATE, "", &request)
}
