//! A volume as `/dev/nbdN` of this host: the kernel's NBD client, served by the engine thread over a
//! socket pair, and kept supplied with a live one.
//!
//! Invariants
//! - A device that a daemon before this one has left is taken up again, never set up a second time.
//! - A number is a device of ours only while its identifier says so: once somebody has ended it, the next
//!   device of that number is another's, and is left alone.
//! - A lost socket is replaced for as long as the export lasts, but not before its last request is
//!   answered: what the kernel sends again must not be under way still.
//! - A volume's new size is told over a socket that is served: the kernel first waits for all that is under way.
//! - The end of the daemon leaves the device: its requests wait for the next.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use cairn_blockdev::Env;
use cairn_blockdev::export::kernel_nbd::{
    Control, DeadLinks, Device, KernelNbdError, device_path, find, holder, may_set_up, shown,
};
use cairn_blockdev::export::nbd::context::Contexts;
use cairn_blockdev::export::nbd::framing::Framing;
use cairn_blockdev::export::nbd::proto::flag;
use cairn_blockdev::export::nbd::{Export, Limits, serve_agreed};
use tokio::net::UnixStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::claim::claimant;

/// Between two looks whether all is well: news of a dead link may get lost, growth makes none.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the kernel to end a device. It says good-bye over the socket first, and waits there for
/// a server that is stuck.
const DETACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often, and after how long each, it is looked whether a device that has ended is gone: five seconds.
const GONE_LOOKS: u32 = 100;
const GONE_LOOK: Duration = Duration::from_millis(50);

/// Whether devices can be set up at all; the error says what to do.
pub fn available() -> Result<(), String> {
    let usable = Control::open().and_then(|_| may_set_up());
    usable.map_err(|error| error.to_string())
}

/// The device of a volume, if it is set up.
pub fn device_of(volume: Uuid) -> Option<String> {
    find(&identifier(volume)).map(|index| device_path(index).display().to_string())
}

/// Who uses the device of a volume, as a sentence.
pub async fn user_of(volume: Uuid) -> Option<String> {
    let identifier = identifier(volume);
    let known = tokio::task::spawn_blocking(move || {
        let index = find(&identifier)?;
        Some((index, holder(index)))
    });
    let (index, holder) = known.await.ok().flatten()?;
    match holder {
        Some(holder) => Some(holder),
        None => claimant(device_path(index)).await,
    }
}

fn identifier(volume: Uuid) -> String {
    format!("cairn-{volume}")
}

/// A device that is being served.
pub(crate) struct Attached {
    index: u32,
    identifier: String,
    news: Option<DeadLinks>,
    told: Device,
    serving: Server,
    ending: Rc<Cell<bool>>,
}

/// Serves the device, over one socket after the other.
pub(crate) struct Server {
    pub(crate) export: Export,
    pub(crate) limits: Limits,
    /// Logical block of the device in bytes.
    pub(crate) block: u32,
    pub(crate) env: Env,
}

impl Server {
    fn device(&self, identifier: &str) -> Device {
        let geometry = self.export.device.geometry();
        Device {
            identifier: identifier.to_owned(),
            size: geometry.size,
            block: self.block,
            flags: self.export.flags(Framing::Simple, Contexts::default()),
        }
    }

    /// Serves one end of a socket pair, and gives the other.
    fn socket(&self) -> std::io::Result<OwnedFd> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let (export, limits) = (self.export.clone(), self.limits.clone());
        let connection = serve_agreed(ours, export, limits, self.env.clone());
        let volume = self.export.name.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::info!(volume, %error, "the socket of the kernel's NBD device ended");
            }
        });
        Ok(theirs.into())
    }
}

impl Attached {
    /// Sets the device of `volume` up, or takes up the one that is there.
    pub(crate) async fn new(volume: Uuid, mut serving: Server) -> Result<Self, String> {
        let identifier = identifier(volume);
        let wish = serving.device(&identifier);
        let socket = serving
            .socket()
            .map_err(|error| format!("a socket for an NBD device: {error}"))?;
        let attached = tokio::task::spawn_blocking(move || attach(wish, &socket)).await;
        let (index, told, news) = attached
            .map_err(|error| format!("setting up an NBD device: {error}"))?
            .map_err(|error| error.to_string())?;
        serving.block = told.block;
        tracing::info!(volume = serving.export.name, "attached as /dev/nbd{index}");
        Ok(Self {
            index,
            identifier,
            news,
            told,
            serving,
            ending: Rc::default(),
        })
    }

    /// Bytes of its logical block: what was wished, unless it was left with another.
    pub(crate) fn block(&self) -> u32 {
        self.serving.block
    }

    /// While this is set the device is being ended by us: what is lost stays lost.
    pub(crate) fn ending(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.ending)
    }

    /// Replaces the socket if it is lost and tells a new size, until somebody else ends the device.
    pub(crate) async fn keep(mut self) {
        // What fails is tried again at every look, and said once: whether for want of a socket, and why.
        let mut said: Option<(bool, String)> = None;
        let mut is_news = move |failure: Option<(bool, String)>| {
            let is_news = failure.is_some() && failure != said;
            said = failure;
            is_news
        };
        loop {
            self.wait().await;
            if self.ending.get() {
                continue;
            }
            let mut device = self.serving.device(&self.identifier);
            // One whose requests are still being served counts as alive.
            let is_lost = self.serving.export.connections.count() == 0;
            if !is_lost && device == self.told {
                is_news(None);
                continue;
            }
            if is_lost {
                // Its new size comes at the next look.
                device.size = self.told.size;
            }
            let volume = self.serving.export.name.clone();
            let socket = match is_lost.then(|| self.serving.socket()).transpose() {
                Ok(socket) => socket,
                Err(error) => {
                    if is_news(Some((is_lost, error.to_string()))) {
                        tracing::warn!(volume, %error, "no new socket for /dev/nbd{}", self.index);
                    }
                    continue;
                }
            };
            let (index, asked) = (self.index, device.clone());
            let told = tokio::task::spawn_blocking(move || retell(index, &asked, socket.as_ref()));
            match told.await {
                _ if self.ending.get() => {}
                Ok(Ok(Told::Ours)) => {
                    let size = device.size;
                    tracing::info!(volume, is_lost, "/dev/nbd{index} goes on with {size} bytes");
                    self.told = device;
                    is_news(None);
                }
                Ok(Ok(Told::NoLonger)) => {
                    tracing::warn!(
                        volume,
                        "/dev/nbd{index} was ended by somebody else: export the volume again"
                    );
                    return;
                }
                Ok(Err(error)) => {
                    if is_news(Some((is_lost, error.to_string()))) {
                        tracing::warn!(volume, %error, "/dev/nbd{index} stays as it is; trying again");
                    }
                }
                Err(error) => tracing::error!(volume, %error, "/dev/nbd{index} stays as it is"),
            }
        }
    }

    async fn wait(&mut self) {
        let news = async {
            match &self.news {
                Some(news) => news.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            heard = news => {
                match heard {
                    Ok(index) if index == self.index => {
                        tracing::info!("the kernel says that the socket of /dev/nbd{index} is dead");
                    }
                    Ok(_) => {}
                    // Then looking now and again has to do.
                    Err(error) => {
                        tracing::warn!(%error, "no more news of the kernel's NBD devices");
                        self.news = None;
                    }
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Ends the device of a volume, served or left over, and no other. None is as good.
pub(crate) async fn detach(volume: Uuid) -> Result<(), String> {
    let identifier = identifier(volume);
    let ended = tokio::task::spawn_blocking(move || {
        let Some(index) = find(&identifier) else {
            return Ok(());
        };
        Control::open()?.disconnect(index)?;
        // It keeps its name until the last who has it open lets go, as those do who look at it in passing.
        for _ in 0..GONE_LOOKS {
            if find(&identifier).is_none() {
                break;
            }
            std::thread::sleep(GONE_LOOK);
        }
        Ok::<(), KernelNbdError>(())
    });
    match timeout(DETACH_TIMEOUT, ended).await {
        Ok(Ok(ended)) => ended.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            // It goes on as soon as the server's end of the socket is closed.
            tracing::warn!(%volume, "the kernel takes its time to end an NBD device");
            Ok(())
        }
    }
}

/// Whose a device was when it was to be told something.
enum Told {
    Ours,
    /// Somebody has ended it.
    NoLonger,
}

/// On a thread that may block. A device that isn't the identifier's is told nothing: of one that was set up
/// without an identifier the kernel doesn't ask whose it is.
fn retell(index: u32, device: &Device, socket: Option<&OwnedFd>) -> Result<Told, KernelNbdError> {
    if find(&device.identifier) != Some(index) {
        return Ok(Told::NoLonger);
    }
    Control::open()?.reconfigure(index, device, socket)?;
    Ok(Told::Ours)
}

/// Sets a device up that can be found again, or none.
fn connect(
    control: &mut Control,
    device: &Device,
    socket: &OwnedFd,
) -> Result<u32, KernelNbdError> {
    let index = control.connect(device, socket)?;
    if find(&device.identifier) == Some(index) {
        return Ok(index);
    }
    control.disconnect(index)?;
    Err(KernelNbdError::NoIdentifier)
}

/// On a thread that may block. Gives the device as it is: one that was left keeps its logical block, by which a
/// file system on it goes, and for now its size.
fn attach(
    wish: Device,
    socket: &OwnedFd,
) -> Result<(u32, Device, Option<DeadLinks>), KernelNbdError> {
    let mut control = Control::open()?;
    let (index, device) = match find(&wish.identifier) {
        None => (connect(&mut control, &wish, socket)?, wish),
        Some(index) => {
            let left = shown(index)?;
            if wish.flags & flag::READ_ONLY != 0 && !left.read_only {
                return Err(KernelNbdError::TakesWrites { index });
            }
            let device = Device {
                block: left.block,
                size: left.size.min(wish.size),
                ..wish.clone()
            };
            match control.reconfigure(index, &device, Some(socket)) {
                Ok(()) => (index, device),
                // It has ended in between.
                Err(_) if find(&wish.identifier).is_none() => {
                    (connect(&mut control, &wish, socket)?, wish)
                }
                Err(error) => return Err(error),
            }
        }
    };
    let news = control.dead_links();
    if let Err(error) = &news {
        tracing::warn!(%error, "no news of the kernel's NBD devices");
    }
    Ok((index, device, news.ok()))
}
