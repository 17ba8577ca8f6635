//! The socket to the kernel's `nbd` family, and what sysfs says of its devices.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::KernelNbdError;
use super::messages::{
    Device, Family, connect, connected, dead_link, disconnect, reconfigure, resolve, resolved,
};
use super::netlink::{List, Received, received};
use crate::disk::holder_of;
use crate::export::admin::is_admin;

/// Largest datagram of the kernel's that is expected; it sends pages.
const DATAGRAM_BYTES_MAX: usize = 16 << 10;
/// Longest wait for an answer: the kernel answers within the call, unless it hangs.
const ANSWER_TIMEOUT_SECONDS: i64 = 30;
/// Answers to one request: a message and its acknowledgement, and room for what is none of ours.
const ANSWERS_MAX: usize = 16;

/// How often the kernel looks whether a request must be sent again, as its socket was replaced since
/// it was sent. It bounds the pause after a crash of the daemon; for a request that is only slow it
/// makes a line in the kernel's log, and nothing else.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A way to tell the kernel what devices to have. Its calls block for a moment.
pub struct Control {
    fd: OwnedFd,
    family: Family,
    sequence: u32,
}

impl Control {
    /// Opens it.
    pub fn open() -> Result<Self, KernelNbdError> {
        let what = "talking to the kernel over netlink";
        let failed = |errno| KernelNbdError::of(what, errno);
        let fd = netlink_socket(SockFlag::empty(), 0).map_err(failed)?;
        let timeout = TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0);
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).map_err(failed)?;
        let mut control = Self {
            fd,
            family: Family { id: 0, group: None },
            sequence: 0,
        };
        let what = "looking for the kernel's nbd driver";
        let family = control.ask(what, resolve, resolved);
        control.family = match family {
            Err(KernelNbdError::Failed {
                errno: Errno::ENOENT,
                ..
            }) => return Err(KernelNbdError::NoDriver),
            family => family?.ok_or(KernelNbdError::NoAnswer { what })?,
        };
        Ok(control)
    }

    /// Sets up a device over this socket, which is in transmission. Gives its number.
    pub fn connect(&mut self, device: &Device, socket: &OwnedFd) -> Result<u32, KernelNbdError> {
        let what = "setting up an NBD device";
        let (family, socket) = (self.family, number(socket.as_fd(), what)?);
        let message = |sequence| connect(family, sequence, device, socket);
        let index = self.ask(what, message, connected)?;
        let index = index.ok_or(KernelNbdError::NoAnswer { what })?;
        look_often(index);
        Ok(index)
    }

    /// Gives a device this socket in the place of the dead one, and its size. If the old one isn't
    /// dead the kernel closes the new one.
    pub fn reconfigure(
        &mut self,
        index: u32,
        device: &Device,
        socket: Option<&OwnedFd>,
    ) -> Result<(), KernelNbdError> {
        let what = "handing an NBD device a new socket";
        let family = self.family;
        let socket = socket.map(|socket| number(socket.as_fd(), what));
        let socket = socket.transpose()?;
        let message = |sequence| reconfigure(family, sequence, index, device, socket);
        self.ask(what, message, |_| Some(()))?;
        look_often(index);
        Ok(())
    }

    /// Ends the device of this number, whosever it is: the kernel doesn't ask for its identifier. One that
    /// has ended already is as good.
    pub fn disconnect(&mut self, index: u32) -> Result<(), KernelNbdError> {
        let family = self.family;
        let message = |sequence| disconnect(family, sequence, index);
        match self.ask("ending an NBD device", message, |_| Some(())) {
            Err(KernelNbdError::Failed {
                errno: Errno::EINVAL | Errno::ENODEV,
                ..
            }) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Subscribes to news of dead links.
    pub fn dead_links(&self) -> io::Result<DeadLinks> {
        // Groups beyond 32 don't fit the mask; who has no news looks from time to time.
        let bit = |group: u32| group.checked_sub(1).and_then(|bit| 1u32.checked_shl(bit));
        let mask = self.family.group.and_then(bit).unwrap_or(0);
        let fd = netlink_socket(SockFlag::SOCK_NONBLOCK, mask)?;
        // SAFETY: an OwnedFd has the same open descriptor for all its life, and it is the AsyncFd's
        // alone from here on.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(DeadLinks {
            fd,
            family: self.family,
        })
    }

    /// Sends a request and waits for its end; gives what was read from its message, if it had one.
    fn ask<T>(
        &mut self,
        what: &'static str,
        message: impl FnOnce(u32) -> Vec<u8>,
        read: impl Fn(List<'_>) -> Option<T>,
    ) -> Result<Option<T>, KernelNbdError> {
        let failed = |errno| KernelNbdError::of(what, errno);
        self.sequence += 1;
        let number = self.sequence;
        let message = message(number);
        send(self.fd.as_raw_fd(), &message, MsgFlags::empty()).map_err(failed)?;
        let mut answer = None;
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..ANSWERS_MAX {
            let len = match recv(self.fd.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                len => len.map_err(failed)?,
            };
            for received in received(datagram.get(..len).unwrap_or_default()) {
                match received {
                    Received::Ended { sequence, errno } if sequence == number => {
                        return match errno {
                            0 => Ok(answer),
                            errno => Err(failed(Errno::from_raw(errno.saturating_neg()))),
                        };
                    }
                    Received::Message {
                        sequence,
                        attributes,
                        ..
                    } if sequence == number => answer = read(attributes),
                    // An earlier request's, or news.
                    Received::Ended { .. } | Received::Message { .. } => {}
                }
            }
        }
        Err(KernelNbdError::NoAnswer { what })
    }
}

/// News of devices that have lost a socket.
pub struct DeadLinks {
    fd: AsyncFd<OwnedFd>,
    family: Family,
}

impl DeadLinks {
    /// Waits for the next, and gives the device's number.
    pub async fn next(&self) -> io::Result<u32> {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let mut ready = self.fd.readable().await?;
            let read = ready.try_io(|fd| {
                let len = recv(fd.as_raw_fd(), &mut datagram, MsgFlags::empty());
                Ok(len?)
            });
            let Ok(len) = read else { continue };
            let datagram = datagram.get(..len?).unwrap_or_default();
            let mut dead = received(datagram).filter_map(|news| dead_link(self.family, news));
            if let Some(index) = dead.next() {
                return Ok(index);
            }
        }
    }
}

fn netlink_socket(flags: SockFlag, groups: u32) -> nix::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | flags,
        SockProtocol::NetlinkGeneric,
    )?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

fn number(socket: BorrowedFd<'_>, what: &'static str) -> Result<u32, KernelNbdError> {
    u32::try_from(socket.as_raw_fd()).map_err(|_| KernelNbdError::of(what, Errno::EBADF))
}

/// Has the kernel look more often than it does by itself (30 s). To be done again after every
/// change: it forgets it with each.
fn look_often(index: u32) {
    let setting = format!("/sys/block/nbd{index}/queue/io_timeout");
    if let Err(error) = std::fs::write(&setting, LOOK_EVERY.as_millis().to_string()) {
        // A sandbox may show /sys read-only.
        tracing::info!(%error, "{setting} stays: after a crash /dev/nbd{index} pauses for up to 30 s");
    }
}

/// Whether this process may set devices up: CONNECT is the only other way to ask.
pub fn may_set_up() -> Result<(), KernelNbdError> {
    match is_admin() {
        Some(false) => Err(KernelNbdError::NotPermitted),
        _ => Ok(()),
    }
}

/// What is to be seen of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub block: u32,
    /// It refuses writes.
    pub read_only: bool,
}

/// What is to be seen of a device that is set up.
pub fn shown(index: u32) -> Result<Shown, KernelNbdError> {
    const SECTOR: u64 = 512;
    let number = |attribute: &str| {
        let file = format!("/sys/block/nbd{index}/{attribute}");
        let text = std::fs::read_to_string(file).ok()?;
        text.trim_end().parse::<u64>().ok()
    };
    let read = || {
        Some(Shown {
            size: number("size")?.checked_mul(SECTOR)?,
            block: number("queue/logical_block_size")?.try_into().ok()?,
            read_only: number("ro")? != 0,
        })
    };
    let what = "looking at an NBD device that is left";
    read().ok_or(KernelNbdError::of(what, Errno::ENODATA))
}

/// The device's file.
pub fn device_path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/nbd{index}"))
}

/// The device that was set up with this identifier and hasn't ended, whoever set it up.
pub fn find(identifier: &str) -> Option<u32> {
    find_in(Path::new("/sys/block"), identifier)
}

fn find_in(blocks: &Path, identifier: &str) -> Option<u32> {
    std::fs::read_dir(blocks).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let index = name.strip_prefix("nbd")?.parse().ok()?;
        // Only there while it is set up.
        let backend = std::fs::read_to_string(entry.path().join("backend")).ok()?;
        (backend.trim_end() == identifier).then_some(index)
    })
}

/// Who uses a device, as a sentence; `None` if nobody is known to. See [`holder_of`].
pub fn holder(index: u32) -> Option<String> {
    holder_of(&format!("nbd{index}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_identifier() {
        let blocks = std::env::temp_dir().join(format!("cairn-nbd-{}", std::process::id()));
        for (name, backend) in [
            ("nbd0", None),
            ("nbd1", Some("cairn-other")),
            ("nbd12", Some("cairn-a\n")),
            ("sda", Some("cairn-a")),
        ] {
            let dir = blocks.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            if let Some(backend) = backend {
                std::fs::write(dir.join("backend"), backend).unwrap();
            }
        }
        assert_eq!(find_in(&blocks, "cairn-a"), Some(12));
        assert_eq!(find_in(&blocks, "cairn-b"), None);
        std::fs::remove_dir_all(&blocks).unwrap();
    }

    #[test]
    fn a_kernel_without_the_driver_is_told_what_to_load() {
        // Where the driver is there, it can be talked to.
        match Control::open() {
            Ok(_) | Err(KernelNbdError::NotPermitted) => {}
            Err(error) => assert!(error.to_string().contains("modprobe nbd"), "{error}"),
        }
    }
}
