//! The demo's own `cairnd`: found, built if need be, started, stopped.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cairn_api::{Version, routes};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::place::Place;
use crate::client::Client;
use crate::error::ToolError;
use crate::output::say;

/// A daemon without arrays is there in a moment; a loaded machine needs longer.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(20);
/// How long it may flush and close after being told to stop, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// This package's name in the environment that `cargo run` gives its program.
const OWN_PACKAGE: &str = env!("CARGO_PKG_NAME");

/// `cairnd` beside this program; under `cargo run` it is brought up to date first, because that
/// alone builds `cairn` and no more.
pub(super) async fn program() -> Result<PathBuf, ToolError> {
    let own = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .map_err(|error| ToolError::failed(format!("this program can't find itself: {error}")))?;
    let program = own.with_file_name("cairnd");
    let by_cargo_run = std::env::var("CARGO_PKG_NAME").is_ok_and(|name| name == OWN_PACKAGE);
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| by_cargo_run) {
        build(&cargo, &own).await?;
    }
    if program.is_file() {
        return Ok(program);
    }
    Err(ToolError::failed_with(
        format!("there is no cairnd beside {}", own.display()),
        "in a source tree: cargo build --release -p cairnd; else install both in one directory",
    ))
}

async fn build(cargo: &OsStr, own: &Path) -> Result<(), ToolError> {
    let Some(plan) = BuildPlan::of(own) else {
        return Ok(());
    };
    say("Building cairnd beside this program (cargo run builds only cairn) …");
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "cairnd", "--profile", plan.profile.as_str()]);
    command.arg("--target-dir").arg(&plan.target_dir);
    if let Some(dir) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(dir);
    }
    // Data is ours alone: what the build says is talk.
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status()
        .await
        .map_err(|error| ToolError::failed(format!("{} can't be run: {error}", cargo.display())))?;
    if status.success() {
        Ok(())
    } else {
        Err(ToolError::failed_with(
            format!("cairnd can't be built: cargo ended with {status}"),
            "see cargo's messages above",
        ))
    }
}

/// What makes cargo put `cairnd` beside us.
#[derive(Debug, PartialEq, Eq)]
struct BuildPlan {
    profile: String,
    target_dir: PathBuf,
}

impl BuildPlan {
    /// From where we are: `…/target/release/cairn` says both profile and target directory.
    fn of(own: &Path) -> Option<Self> {
        let dir = own.parent()?;
        let profile = match dir.file_name()?.to_str()? {
            "debug" => "dev",
            other => other,
        };
        Some(Self {
            profile: profile.to_owned(),
            target_dir: dir.parent()?.to_path_buf(),
        })
    }
}

/// A running `cairnd`. Killed when dropped, unless kept.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    pid: u32,
}

impl Daemon {
    /// Starts `program` on the state directory of `place`; `keep` lets it outlive us.
    pub(super) fn start(program: &Path, place: &Place, keep: bool) -> Result<Self, ToolError> {
        let cannot = |error: std::io::Error| {
            ToolError::failed(format!("{} can't be started: {error}", program.display()))
        };
        let log = place.make_log()?;
        let log_too = log.try_clone().map_err(cannot)?;
        let child = Command::new(program)
            .arg("--state-dir")
            .arg(place.state_dir())
            .current_dir(place.dir())
            .env_remove(cairn_api::SOCKET_ENV)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .process_group(0)
            .kill_on_drop(!keep)
            .spawn()
            .map_err(cannot)?;
        let pid = child
            .id()
            .ok_or_else(|| ToolError::failed("cairnd ended as soon as it was started"))?;
        Ok(Self { child, pid })
    }

    /// Waits until it answers on its admin socket.
    pub(super) async fn ready(&mut self, client: &Client) -> Result<(), ToolError> {
        let started = Instant::now();
        loop {
            let refusal = match client.get::<Version>(routes::VERSION).await {
                Ok(version) => {
                    say(format!(
                        "Started cairnd {} (pid {}, socket {})",
                        version.version,
                        self.pid,
                        client.socket().display()
                    ));
                    return Ok(());
                }
                Err(error) => error,
            };
            let exited = self.child.try_wait().ok().flatten();
            if let Some(status) = exited {
                return Err(ToolError::failed(format!(
                    "cairnd ended at once with {status}"
                )));
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(refusal);
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Whether it hasn't ended.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id, also after it has ended.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it to stop, waits, kills it if it doesn't; reaps it in any case.
    pub(super) async fn stop(mut self) {
        // Tokio forgets the number once the process is reaped: it is never somebody else's.
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let told = pid.and_then(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).ok());
        if told.is_some() {
            let ended = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
            if ended.is_ok() {
                return;
            }
            say(format!(
                "cairnd didn't stop within {} s and is killed",
                STOP_TIMEOUT.as_secs()
            ));
        }
        // Kills and reaps; one that has ended already is only reaped.
        let _ = self.child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_built_in_our_own_profile_and_place() {
        assert_eq!(
            BuildPlan::of(Path::new("/w/target/release/cairn")),
            Some(BuildPlan {
                profile: "release".to_owned(),
                target_dir: PathBuf::from("/w/target")
            })
        );
        assert_eq!(
            BuildPlan::of(Path::new("/w/target/debug/cairn"))
                .unwrap()
                .profile,
            "dev"
        );
        assert_eq!(BuildPlan::of(Path::new("/cairn")), None);
    }
}
