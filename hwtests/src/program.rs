//! Programs that tests run: found or named, run to their end, their words kept.

use std::ffi::OsStr;
use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// Where the distributions keep what administrators run; a user's PATH may lack it.
const SYSTEM_DIRS: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Which package has which program, for the message that it is missing (Debian's names).
const PACKAGES: &[(&str, &str)] = &[
    ("btrfs", "btrfs-progs"),
    ("fio", "fio"),
    ("losetup", "mount"),
    ("mdadm", "mdadm"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkswap", "util-linux"),
    ("mount", "mount"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdfuse", "libnbd-bin"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdkit", "nbdkit"),
    ("parted", "parted"),
    ("pvcreate", "lvm2"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("qemu-nbd", "qemu-utils"),
    ("systemd-analyze", "systemd"),
    ("umount", "mount"),
];

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// What was run, for messages.
    pub line: String,
    /// Its exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Finished {
    fn of(line: String, output: Output) -> Self {
        Self {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It must have exited with 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exited(0)
    }

    /// It must have exited with `code`.
    #[track_caller]
    pub fn exited(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}: {self}");
        self
    }

    /// Its output and errors together must contain each of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stdout.contains(word) || self.stderr.contains(word),
                "{word:?} isn't said: {self}"
            );
        }
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` exited with {:?}\n--- stdout\n{}--- stderr\n{}---",
            self.line, self.code, self.stdout, self.stderr
        )
    }
}

fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

fn cannot_run(line: &str, error: &std::io::Error) -> ! {
    let program = line.split(' ').next().unwrap_or(line);
    if error.kind() == ErrorKind::NotFound {
        let package = PACKAGES.iter().find(|(name, _)| *name == program);
        match package {
            Some((_, package)) => panic!(
                "{program} isn't installed: `apt-get install {package}`; \
                 `sh hwtests/test.sh` as root installs all that the tests need"
            ),
            None => panic!("{program} isn't there"),
        }
    }
    panic!("`{line}` can't be run: {error}")
}

/// A command with an environment that no developer's settings reach, and the system's directories
/// in its path.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(arguments)
        .env("PATH", format!("{path}:{SYSTEM_DIRS}"))
        .env("LC_ALL", "C")
        .env_remove("CAIRN_SOCKET")
        .env_remove("CAIRN_IO")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("JOURNAL_STREAM")
        // Else `cairn demo` in a test would think that `cargo run` started it.
        .env_remove("CARGO")
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn finish(mut command: Command) -> Finished {
    let line = shown(&command);
    match command.output() {
        Ok(output) => Finished::of(line, output),
        Err(error) => cannot_run(&line, &error),
    }
}

/// Runs `program` with `arguments` to its end.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Finished {
    finish(command(program, arguments))
}

/// Runs `program` and feeds it `input`.
#[track_caller]
pub fn run_with_input<S: AsRef<OsStr>>(program: &str, arguments: &[S], input: &[u8]) -> Finished {
    let mut command = command(program, arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let line = shown(&command);
    let mut child = start(command);
    // One that doesn't read its input to the end says so by its exit code.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
    match child.wait_with_output() {
        Ok(output) => Finished::of(line, output),
        Err(error) => panic!("`{line}`: {error}"),
    }
}

/// Starts a command that runs beside the test.
#[track_caller]
pub fn start(mut command: Command) -> Child {
    let line = shown(&command);
    match command.spawn() {
        Ok(child) => child,
        Err(error) => cannot_run(&line, &error),
    }
}

/// Waits for a child started with piped output.
#[track_caller]
pub fn finished(line: &str, child: Child) -> Finished {
    match child.wait_with_output() {
        Ok(output) => Finished::of(line.to_owned(), output),
        Err(error) => panic!("`{line}`: {error}"),
    }
}

/// Fails by name where the test needs root and hasn't it.
#[track_caller]
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test attaches loop devices and mounts file systems: run it as root"
    );
}

/// `name` among the binaries under test: in `CAIRN_BIN_DIR`, else where cargo put this test or program.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    let dir = match std::env::var_os("CAIRN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        // target/PROFILE/deps/e2e-HASH, or target/PROFILE/bench
        None => std::env::current_exe()
            .ok()
            .and_then(|own| {
                let dir = own.parent()?;
                let is_test = dir.ends_with("deps");
                Some(if is_test { dir.parent()? } else { dir }.to_owned())
            })
            .unwrap_or_default(),
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} isn't built: `cargo build --bins` with the tests' profile, or set CAIRN_BIN_DIR",
        path.display()
    );
    path
}

/// The root of the source tree.
pub fn tree() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(&own).to_owned()
}

/// A script of `hwtests/lab`.
pub fn lab(name: &str) -> String {
    let path = tree().join("hwtests/lab").join(name);
    path.to_string_lossy().into_owned()
}
