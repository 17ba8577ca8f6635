//! A `cairnd` of a test's own, and the tool `cairn` that talks to it.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cairn_api::{Array, ArrayState, Health, Reply, Volume};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::program::{self, Finished};
use crate::scratch::Scratch;
use crate::wait;

/// How long a start may take: it waits for absent members, here a second.
const READY_PATIENCE: Duration = Duration::from_mins(2);
/// Between two looks whether the daemon has died instead of becoming ready.
const READY_POLL: Duration = Duration::from_millis(100);
/// The longest message that is expected on the notify socket.
const NOTIFY_BYTES_MAX: usize = 4096;

/// A state directory with, most of the time, a daemon on it.
#[derive(Debug)]
pub struct Host {
    state_dir: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// What `CAIRN_IO` says: how disks are reached.
    io: &'static str,
    /// Addresses that somebody else listens at for it, as systemd's socket units do.
    activated: Vec<String>,
    /// What `TZ` says; `None`: whatever it says to the test.
    zone: Option<&'static str>,
    /// Where a service manager would listen, for as long as the daemon may say something.
    notify: Option<UnixDatagram>,
}

impl Host {
    /// Starts a daemon on `scratch`/state and waits until it says READY. It waits a second for
    /// absent members, instead of thirty.
    #[track_caller]
    pub fn start(scratch: &Scratch) -> Self {
        Self::start_with(scratch, "state", "degraded_wait_seconds = 1\n")
    }

    /// Starts a daemon on `scratch`/`name` with this configuration.
    #[track_caller]
    pub fn start_with(scratch: &Scratch, name: &str, config: &str) -> Self {
        Self::start_over(scratch, name, config, "auto")
    }

    /// Starts a daemon as [`Host::start`] does, whose disks are reached by threads, as where
    /// io_uring is blocked.
    #[track_caller]
    pub fn start_on_threads(scratch: &Scratch) -> Self {
        Self::start_over(scratch, "state", "degraded_wait_seconds = 1\n", "threads")
    }

    /// Starts a daemon as [`Host::start`] does, with listening sockets handed over.
    #[track_caller]
    pub fn start_activated(scratch: &Scratch, addresses: &[String]) -> Self {
        let config = "degraded_wait_seconds = 1\n";
        let mut host = Self::prepared(scratch, "state", config, "auto");
        host.activated = addresses.to_vec();
        host.up();
        host
    }

    #[track_caller]
    fn start_over(scratch: &Scratch, name: &str, config: &str, io: &'static str) -> Self {
        let mut host = Self::prepared(scratch, name, config, io);
        host.up();
        host
    }

    #[track_caller]
    fn prepared(scratch: &Scratch, name: &str, config: &str, io: &'static str) -> Self {
        let path = scratch.join(&format!("{name}.toml"));
        if let Err(error) = std::fs::write(&path, config) {
            panic!("{}: {error}", path.display());
        }
        Self {
            state_dir: scratch.join(name),
            config: path,
            log: scratch.join(&format!("{name}.log")),
            child: None,
            io,
            activated: Vec::new(),
            zone: None,
            notify: None,
        }
    }

    /// Starts the daemon again, and waits until it says READY.
    #[track_caller]
    pub fn up(&mut self) {
        self.begin();
        let (Some(listener), Some(child)) = (&self.notify, &mut self.child) else {
            panic!("the daemon wasn't started");
        };
        let deadline = Instant::now() + READY_PATIENCE;
        let mut message = [0; NOTIFY_BYTES_MAX];
        let why = loop {
            if let Ok(length) = listener.recv(&mut message) {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    return;
                }
            }
            if let Ok(Some(status)) = child.try_wait() {
                break format!("cairnd ended with {status} before READY");
            }
            if Instant::now() >= deadline {
                break format!("cairnd wasn't READY in {READY_PATIENCE:?}");
            }
        };
        panic!("{why}:\n{}", self.log());
    }

    /// Starts the daemon, and doesn't wait for it.
    #[track_caller]
    pub fn begin(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let notify = self.log.with_extension("notify");
        let _ = std::fs::remove_file(&notify);
        let listener = UnixDatagram::bind(&notify)
            .and_then(|socket| socket.set_read_timeout(Some(READY_POLL)).map(|()| socket));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => panic!("{}: {error}", notify.display()),
        };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log);
        let log = match log {
            Ok(log) => log,
            Err(error) => panic!("{}: {error}", self.log.display()),
        };
        let cairnd = program::binary("cairnd");
        let mut line = vec![
            Path::new("--config"),
            &self.config,
            Path::new("--state-dir"),
            &self.state_dir,
        ];
        let launcher = program::lab("with-sockets.py");
        let mut command = if self.activated.is_empty() {
            program::command(&cairnd, &line)
        } else {
            let mut whole = vec![Path::new(&launcher)];
            whole.extend(self.activated.iter().map(Path::new));
            whole.extend([Path::new("--"), &cairnd]);
            whole.append(&mut line);
            program::command("/usr/bin/python3", &whole)
        };
        command
            .env("NOTIFY_SOCKET", &notify)
            .env("CAIRN_IO", self.io)
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        if let Some(zone) = self.zone {
            command.env("TZ", zone);
        }
        self.child = Some(program::start(command));
        self.notify = Some(listener);
    }

    /// From its next start on the daemon lives in this time zone, in the words of `TZ`.
    pub fn live_in(&mut self, zone: &'static str) {
        self.zone = Some(zone);
    }

    /// SIGTERM: it must stop cleanly, with exit code 0.
    #[track_caller]
    pub fn down(&mut self) {
        let status = self.end(Signal::SIGTERM);
        assert!(
            status.success(),
            "cairnd stopped with {status}:\n{}",
            self.log()
        );
    }

    /// SIGKILL: nothing is written any more.
    #[track_caller]
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    #[track_caller]
    fn end(&mut self, signal: Signal) -> std::process::ExitStatus {
        let Some(mut child) = self.child.take() else {
            panic!("no daemon runs");
        };
        let pid = i32::try_from(child.id()).unwrap_or_default();
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            panic!("cairnd can't be told {signal}: {error}\n{}", self.log());
        }
        match child.wait() {
            Ok(status) => status,
            Err(error) => panic!("cairnd: {error}"),
        }
    }

    /// Forgets everything that isn't on the disks.
    #[track_caller]
    pub fn lose_state(&self) {
        assert!(self.child.is_none(), "the daemon still runs");
        if let Err(error) = std::fs::remove_dir_all(&self.state_dir) {
            panic!("{}: {error}", self.state_dir.display());
        }
    }

    /// The daemon's process; 0 while it is down.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The tool with these arguments, as a command.
    pub fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program::command(program::binary("cairn"), arguments);
        command.env("CAIRN_SOCKET", self.state_dir.join("cairnd.sock"));
        command
    }

    /// Runs the tool.
    #[track_caller]
    pub fn cairn(&self, arguments: &[&str]) -> Finished {
        program::finish(self.command(arguments))
    }

    /// Runs the tool; it must succeed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> Finished {
        self.cairn(arguments).ok()
    }

    /// Runs the tool; it must refuse with this exit code and these words, and name a next step.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], code: i32, words: &[&str]) -> Finished {
        let refusal = self.cairn(arguments).exited(code).says(words);
        assert!(
            refusal.stdout.is_empty(),
            "talk belongs on stderr: {refusal}"
        );
        refusal
    }

    /// Runs the tool with `-o json`, and reads what it prints.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        read_json(&self.ok(&all))
    }

    /// The verdict, whatever the exit code that goes with it.
    #[track_caller]
    pub fn health(&self) -> Health {
        read_json(&self.cairn(&["-o", "json", "check"]))
    }

    /// An array, as `array show` has it.
    #[track_caller]
    pub fn array(&self, name: &str) -> Array {
        self.json(&["array", "show", name])
    }

    /// Makes an array with this level over `disks` and `spares`.
    #[track_caller]
    pub fn create(&self, name: &str, level: &str, disks: &[String], spares: &[String]) -> Finished {
        let mut line = vec!["array", "create", name, "--level", level, "--disks"];
        line.extend(disks.iter().map(String::as_str));
        if !spares.is_empty() {
            line.push("--spares");
            line.extend(spares.iter().map(String::as_str));
        }
        self.ok(&line)
    }

    /// Makes a volume and exports it at `socket`; returns its URI.
    #[track_caller]
    pub fn volume(&self, name: &str, array: &str, size: &str, socket: &str) -> String {
        self.ok(&["volume", "create", name, "--array", array, "--size", size]);
        let address = format!("unix:{socket}");
        self.ok(&["volume", "export", name, "--nbd", &address]);
        let volume: Volume = self.json(&["volume", "show", name]);
        match volume.exports.first() {
            Some(export) => export.uri.clone(),
            None => panic!("volume {name} has no export"),
        }
    }

    /// Waits until the array is clean and idle.
    #[track_caller]
    pub fn wait_clean(&self, name: &str) -> Array {
        self.ok(&["array", "wait", name, "--for", "clean", "--timeout", "120s"]);
        let array = self.array(name);
        assert_eq!(array.state, ArrayState::Clean);
        array
    }

    /// Waits until the array is as `wanted`.
    #[track_caller]
    pub fn wait_array(&self, name: &str, what: &str, wanted: impl Fn(&Array) -> bool) -> Array {
        wait::until(what, || {
            let array = self.array(name);
            if wanted(&array) {
                Ok(array)
            } else {
                Err(format!("{array:#?}"))
            }
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- cairnd's log\n{}---", self.log());
        }
    }
}

/// What the tool printed with `-o json`.
#[track_caller]
pub fn read_json<T: DeserializeOwned>(finished: &Finished) -> T {
    match serde_json::from_str::<Reply<T>>(&finished.stdout) {
        Ok(reply) => reply.body,
        Err(error) => panic!("not the JSON expected ({error}): {finished}"),
    }
}
