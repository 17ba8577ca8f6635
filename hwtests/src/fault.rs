//! A block device that can be pulled: file → nbdkit → nbdfuse → loop.
//!
//! Pulled means that every request ends with an I/O error from then on, in flight or new, as with a
//! disk that has lost its cable. It doesn't come back.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::disks::{self, Loop};
use crate::program;
use crate::scratch::Scratch;
use crate::wait;

/// The device and the processes behind it.
#[derive(Debug)]
pub struct Pullable {
    device: Option<Loop>,
    mount: PathBuf,
    fuse: Child,
    server: Child,
}

impl Pullable {
    /// Makes one called `name` of `mib` MiB in `dir`, with sectors of `sector_bytes`. Wants root.
    #[track_caller]
    pub fn make(
        scratch: &Scratch,
        dir: &std::path::Path,
        name: &str,
        mib: u64,
        sector_bytes: u32,
    ) -> Self {
        program::need_root();
        let image = disks::file(dir, name, mib);
        let mount = scratch.dir(&format!("{name}.fuse"));
        let socket = scratch.text(&format!("{name}.nbd"));
        let image = image.to_string_lossy();
        let quiet = |mut command: std::process::Command| {
            // Both have much to say about being pulled.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            program::start(command)
        };
        let server = quiet(program::command(
            "nbdkit",
            &["-f", "-U", &socket, "file", &image],
        ));
        wait::until("nbdkit's socket", || {
            let there = std::path::Path::new(&socket).exists();
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

    /// Its path, such as `/dev/loop7`.
    pub fn device(&self) -> &str {
        self.device.as_ref().map_or("", Loop::device)
    }

    /// Pulls it.
    pub fn pull(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Pullable {
    fn drop(&mut self) {
        self.pull();
        drop(self.device.take());
        program::run("umount", &["-l", &self.mount.to_string_lossy()]);
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
    }
}
