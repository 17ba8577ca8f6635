//! A block device that can be pulled, hang, or fail for a while: file → nbdkit → nbdfuse → loop.
//!
//! Pulled means that every request ends with an I/O error from then on, in flight or new, as with a
//! disk that has lost its cable. Plugged in again it has another name, as disks have. Hung means that
//! no request ends until it is resumed. While it fails it stays where it is, and each read, or each
//! write, ends with EIO.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disks::{self, Loop};
use crate::program;
use crate::scratch::Scratch;
use crate::wait;

/// Requests that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// Reads.
    Reads,
    /// Writes.
    Writes,
}

impl Failing {
    /// While this file is there they fail.
    fn trigger(self, base: &str) -> String {
        match self {
            Self::Reads => format!("{base}.eio-reads"),
            Self::Writes => format!("{base}.eio-writes"),
        }
    }
}

/// The device and the processes behind it.
#[derive(Debug)]
pub struct Pullable {
    image: PathBuf,
    sector_bytes: u32,
    /// Where mounts and sockets go: this with a number.
    base: String,
    times_plugged: u32,
    chain: Chain,
}

/// What stands between the image and the block device.
#[derive(Debug)]
struct Chain {
    device: Option<Loop>,
    mount: PathBuf,
    fuse: Child,
    server: Child,
}

impl Pullable {
    /// Makes one called `name` of `mib` MiB in `dir`, with sectors of `sector_bytes`. Wants root.
    #[track_caller]
    pub fn make(scratch: &Scratch, dir: &Path, name: &str, mib: u64, sector_bytes: u32) -> Self {
        program::need_root();
        let image = disks::file(dir, name, mib);
        let base = scratch.text(name);
        let chain = Chain::over(&image, &base, 0, sector_bytes);
        Self {
            image,
            sector_bytes,
            base,
            times_plugged: 0,
            chain,
        }
    }

    /// Its path, such as `/dev/loop7`.
    pub fn device(&self) -> &str {
        self.chain.device.as_ref().map_or("", Loop::device)
    }

    /// Pulls it.
    pub fn pull(&mut self) {
        self.chain.cut();
    }

    /// Connects it again, with what had been written when it was pulled; as another device, maybe.
    #[track_caller]
    pub fn plug(&mut self) {
        self.times_plugged += 1;
        self.chain = Chain::over(
            &self.image,
            &self.base,
            self.times_plugged,
            self.sector_bytes,
        );
    }

    /// From now on such requests end with EIO.
    #[track_caller]
    pub fn fail(&self, what: Failing) {
        if let Err(error) = std::fs::write(what.trigger(&self.base), "") {
            panic!("{what:?} can't be made to fail: {error}");
        }
    }

    /// They are served again.
    #[track_caller]
    pub fn heal(&self, what: Failing) {
        if let Err(error) = std::fs::remove_file(what.trigger(&self.base)) {
            panic!("{what:?} can't be healed: {error}");
        }
    }

    /// From now on no request ends.
    #[track_caller]
    pub fn hang(&self) {
        self.tell(Signal::SIGSTOP);
    }

    /// What hung goes on.
    #[track_caller]
    pub fn resume(&self) {
        self.tell(Signal::SIGCONT);
    }

    #[track_caller]
    fn tell(&self, signal: Signal) {
        let pid = i32::try_from(self.chain.server.id()).unwrap_or_default();
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            panic!("nbdkit can't be told {signal}: {error}");
        }
    }
}

impl Chain {
    #[track_caller]
    fn over(image: &Path, base: &str, times_plugged: u32, sector_bytes: u32) -> Self {
        let mount = PathBuf::from(format!("{base}.{times_plugged}.fuse"));
        if let Err(error) = std::fs::create_dir_all(&mount) {
            panic!("{} can't be made: {error}", mount.display());
        }
        let socket = format!("{base}.{times_plugged}.nbd");
        let image = image.to_string_lossy();
        let quiet = |mut command: std::process::Command| {
            // Both have much to say about being pulled.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            program::start(command)
        };
        let reads = format!("error-pread-file={}", Failing::Reads.trigger(base));
        let writes = format!("error-pwrite-file={}", Failing::Writes.trigger(base));
        let server = quiet(program::command(
            "nbdkit",
            &[
                "-f",
                "-U",
                &socket,
                "--filter=error",
                "file",
                &image,
                "error=EIO",
                "error-pread-rate=100%",
                &reads,
                "error-pwrite-rate=100%",
                &writes,
            ],
        ));
        wait::until("nbdkit's socket", || {
            let there = Path::new(&socket).exists();
            there.then_some(()).ok_or_else(String::new)
        });
        let uri = format!("nbd+unix:///?socket={socket}");
        let shown = format!("{}/", mount.to_string_lossy());
        let fuse = quiet(program::command("nbdfuse", &[&shown, &uri]));
        let file = mount.join("nbd");
        wait::until("nbdfuse's file", || {
            file.exists().then_some(()).ok_or_else(String::new)
        });
        Self {
            device: Some(Loop::attach(&file, sector_bytes)),
            mount,
            fuse,
            server,
        }
    }

    fn cut(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.cut();
        drop(self.device.take());
        program::run("umount", &["-l", &self.mount.to_string_lossy()]);
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
    }
}
