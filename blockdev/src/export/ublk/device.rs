//! One ublk device: made or taken up again, served, given up or removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::libc;

use super::control::{Control, open_device};
use super::error::UblkError;
use super::params::{Choice, DEPTH, MAX_IO_BYTES, params, size_of_device};
use super::queue::Queue;
use super::remains::Remains;
use super::uapi::{self, ANY_DEVICE, DeviceInfo, SECTOR_SHIFT, attrs, features, state};
use crate::device::BlockDevice;
use crate::env::Env;
use crate::export::Memory;
use crate::export::admin::is_admin;

/// Pause between two looks at something that the kernel does behind our back.
const STEP: Duration = Duration::from_millis(50);
/// How long the kernel may take to be done with a server that died: its last disk I/O has to end.
const GONE_STEPS_MAX: u32 = 600;
/// How long the node of a new device, or its end, is waited for.
const NODE_STEPS_MAX: u32 = 100;

/// Which device is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Who it belongs to: kept by the kernel with the device, so that the next server knows it.
    pub identity: Identity,
    /// The number that it had, or should have; another is taken if that one is somebody else's.
    pub number: Option<u32>,
    /// How it is shown.
    pub choice: Choice,
}

/// The volume's identity in the 64 bits that the kernel keeps for servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u64);

impl Identity {
    /// Of the volume with this UUID.
    pub fn of(volume: uuid::Uuid) -> Self {
        let (high, low) = volume.as_u64_pair();
        // Zero is what servers leave there that keep nothing.
        Self((high ^ low).max(1))
    }
}

/// What a device is served with.
#[derive(Debug, Clone)]
pub struct Place {
    /// Memory for requests.
    pub memory: Memory,
    /// Time and tasks of the thread.
    pub env: Env,
    /// Where the queue's ring goes when the device is given up.
    pub remains: Remains,
}

/// Where a device came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was made.
    Made,
    /// An earlier server left it; requests that it had were given to us.
    TakenUp,
}

/// What came of a new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// The device has it.
    Shown,
    /// This kernel can't: the device keeps its size until it is made anew.
    Unsupported,
}

/// A device that is served on this thread. Dropping it gives it up: it stays, and its requests wait
/// for the next server.
pub struct Ublk {
    control: Control,
    number: u32,
    queue: Rc<Queue>,
    device: Rc<dyn BlockDevice>,
    choice: Choice,
    env: Env,
}

/// Where the device with this number is.
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

impl Ublk {
    /// Takes up the device that an earlier server of the same identity left, or makes one.
    ///
    /// # Panics
    /// Outside a `LocalSet`, as `tokio::task::spawn_local` does.
    pub async fn start(
        wish: Wish,
        device: Rc<dyn BlockDevice>,
        place: Place,
    ) -> Result<(Self, Origin), UblkError> {
        let control = Control::open().await?;
        let mut wish = wish;
        let Place {
            memory,
            env,
            remains,
        } = place;
        if let Some(left) = find(&control, wish.identity, wish.number).await? {
            if left.state != state::DEAD {
                let (taken, logical_block) =
                    take_up(&control, &left, wish, &device, memory, &env).await?;
                taken.live(remains);
                let choice = Choice {
                    logical_block,
                    ..wish.choice
                };
                let taken = Self::new(control, left.dev_id, taken, device, choice, env);
                taken.catch_up().await;
                return Ok((taken, Origin::TakenUp));
            }
            // Made and never started: nobody can have used it.
            remove(&control, left.dev_id, &env).await?;
            wish.number = wish.number.or(Some(left.dev_id));
        }
        let (number, queue) = make(&control, wish, &device, memory, &env).await?;
        queue.live(remains);
        let made = Self::new(control, number, queue, device, wish.choice, env);
        Ok((made, Origin::Made))
    }

    fn new(
        control: Control,
        number: u32,
        queue: Rc<Queue>,
        device: Rc<dyn BlockDevice>,
        choice: Choice,
        env: Env,
    ) -> Self {
        Self {
            control,
            number,
            queue,
            device,
            choice,
            env,
        }
    }

    /// Its number: N of /dev/ublkbN.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Bytes of its logical block: what was wished, unless it was left with another.
    pub fn logical_block(&self) -> u32 {
        self.choice.logical_block
    }

    /// Whether requests are served. Not so after somebody else has removed the device.
    pub fn is_serving(&self) -> bool {
        self.queue.is_serving()
    }

    /// Shows the size that the served device has by now.
    pub async fn grow(&self) -> Result<Grown, UblkError> {
        let wanted = params(&self.device.geometry(), self.choice);
        let shown = self.control.params(self.number).await?;
        // Never smaller: what lies on it doesn't know.
        if wanted.basic.dev_sectors <= shown.basic.dev_sectors {
            return Ok(Grown::Shown);
        }
        if !self.control.can_resize() {
            return Ok(Grown::Unsupported);
        }
        let sectors = wanted.basic.dev_sectors;
        self.control.update_size(self.number, sectors).await?;
        Ok(Grown::Shown)
    }

    /// A volume may have grown while nobody served its device.
    async fn catch_up(&self) {
        match self.grow().await {
            Ok(Grown::Shown) => {}
            Ok(Grown::Unsupported) => tracing::warn!(
                number = self.number,
                "the volume is larger than its ublk device, which this kernel can't resize"
            ),
            Err(error) => tracing::warn!(%error, "the device keeps its size"),
        }
    }

    /// Stops serving: what the volume has in hand is answered, what comes after waits in the kernel
    /// for the next server. It is let in once this thread has ended and its [`Remains`] are cleared.
    pub async fn give_up(&self) {
        self.queue.drain().await;
    }

    /// Removes the device from the host, after what is under way on it.
    pub async fn remove(&self) -> Result<(), UblkError> {
        self.control.stop(self.number).await?;
        self.queue.stopped().await;
        self.queue.close();
        remove(&self.control, self.number, &self.env).await
    }
}

impl Drop for Ublk {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Whether this kernel can serve devices here and now.
pub async fn probe() -> Result<(), UblkError> {
    Control::open().await?;
    // Features are told to everybody.
    match is_admin() {
        Some(false) => Err(UblkError::NoPermission {
            what: "CAP_SYS_ADMIN".to_owned(),
            error: io::ErrorKind::PermissionDenied.into(),
        }),
        _ => Ok(()),
    }
}

/// Devices that wait for a server of one of these identities, with their numbers. One that was never started has
/// nobody who waits.
pub async fn leftovers(identities: &[Identity]) -> Result<Vec<(Identity, u32)>, UblkError> {
    if identities.is_empty() || Control::numbers().is_empty() {
        return Ok(Vec::new());
    }
    let control = match Control::open().await {
        // Whose they are, we can't have made them.
        Err(UblkError::TooOld { .. }) => return Ok(Vec::new()),
        control => control?,
    };
    let mut left = Vec::new();
    for identity in identities {
        let found = find(&control, *identity, None).await?;
        if let Some(info) = found.filter(|info| info.state != state::DEAD) {
            left.push((*identity, info.dev_id));
        }
    }
    Ok(left)
}

/// Removes a device that nobody serves any more. False if there is none.
pub async fn remove_leftover(identity: Identity, env: &Env) -> Result<bool, UblkError> {
    if Control::numbers().is_empty() {
        return Ok(false);
    }
    let control = Control::open().await?;
    let Some(left) = find(&control, identity, None).await? else {
        return Ok(false);
    };
    let number = left.dev_id;
    if left.state != state::DEAD {
        if left.state != state::QUIESCED && is_alive(left.ublksrv_pid) {
            return Err(UblkError::Served {
                number,
                pid: left.ublksrv_pid,
            });
        }
        control.stop(number).await?;
    }
    remove(&control, number, env).await.map(|()| true)
}

/// The device of this identity; of several, which can't be, the one that was last used. Who may not ask doesn't
/// know whether there is one.
async fn find(
    control: &Control,
    identity: Identity,
    number: Option<u32>,
) -> Result<Option<DeviceInfo>, UblkError> {
    let mut found: Option<DeviceInfo> = None;
    for candidate in Control::numbers() {
        let info = match control.info(candidate).await {
            Ok(info) => info,
            Err(error @ UblkError::NoPermission { .. }) => return Err(error),
            // It may go while we look.
            Err(_) => continue,
        };
        if info.ublksrv_flags != identity.0 || info.flags & features::WANTED != features::WANTED {
            continue;
        }
        match found {
            Some(first) => {
                tracing::error!(
                    first = first.dev_id,
                    second = info.dev_id,
                    "two ublk devices say that they belong to one volume"
                );
                if Some(info.dev_id) == number {
                    found = Some(info);
                }
            }
            None => found = Some(info),
        }
    }
    Ok(found)
}

async fn make(
    control: &Control,
    wish: Wish,
    device: &Rc<dyn BlockDevice>,
    memory: Memory,
    env: &Env,
) -> Result<(u32, Rc<Queue>), UblkError> {
    let info = DeviceInfo {
        nr_hw_queues: 1,
        queue_depth: DEPTH,
        max_io_buf_bytes: MAX_IO_BYTES,
        dev_id: wish.number.unwrap_or(ANY_DEVICE),
        flags: features::WANTED,
        ublksrv_flags: wish.identity.0,
        ..DeviceInfo::default()
    };
    let made = match control.add(info).await {
        Err(error) if wish.number.is_some() && error.errno() == Some(libc::EEXIST) => {
            let dev_id = ANY_DEVICE;
            control.add(DeviceInfo { dev_id, ..info }).await?
        }
        made => made?,
    };
    let number = made.dev_id;
    let started = async {
        let wanted = params(&device.geometry(), wish.choice);
        control.set_params(number, &wanted).await?;
        let queue = open_queue(&made, device, memory, env).await?;
        let start = control.start(number);
        with_queue(number, &queue, start).await.map(|()| queue)
    };
    match started.await {
        Ok(queue) => Ok((number, queue)),
        Err(error) => {
            if let Err(error) = remove(control, number, env).await {
                tracing::warn!(%error, "a device that couldn't be started stays");
            }
            Err(error)
        }
    }
}

async fn take_up(
    control: &Control,
    left: &DeviceInfo,
    wish: Wish,
    device: &Rc<dyn BlockDevice>,
    memory: Memory,
    env: &Env,
) -> Result<(Rc<Queue>, u32), UblkError> {
    let number = left.dev_id;
    let logical_block = check_left(control, left, wish, device).await?;
    let mut steps = 0;
    while let Err(error) = control.start_recovery(number).await {
        if error.errno() != Some(libc::EBUSY) {
            return Err(error);
        }
        steps += 1;
        if steps > GONE_STEPS_MAX {
            let pid = control.info(number).await?.ublksrv_pid;
            return Err(UblkError::Served { number, pid });
        }
        env.clock.sleep(STEP).await;
    }
    let queue = open_queue(left, device, memory, env).await?;
    let end = control.end_recovery(number);
    with_queue(number, &queue, end).await?;
    Ok((queue, logical_block))
}

/// Whether the device that was left is one that this volume can be served under; gives its logical block.
async fn check_left(
    control: &Control,
    left: &DeviceInfo,
    wish: Wish,
    device: &Rc<dyn BlockDevice>,
) -> Result<u32, UblkError> {
    let number = left.dev_id;
    let unlike = |why: String| Err(UblkError::Unlike { number, why });
    if left.nr_hw_queues != 1 || left.queue_depth == 0 {
        return unlike(format!("has {} queues", left.nr_hw_queues));
    }
    let shown = control.params(number).await?;
    let geometry = device.geometry();
    let size = size_of_device(&shown);
    if size > geometry.size {
        return unlike(format!(
            "has {size} bytes, and the volume {}",
            geometry.size
        ));
    }
    if u32::from(shown.basic.logical_bs_shift) < geometry.logical_block.trailing_zeros() {
        return unlike("has smaller blocks".to_owned());
    }
    let read_only = shown.basic.attrs & attrs::READ_ONLY != 0;
    if read_only != wish.choice.read_only {
        let word = if read_only { "takes no" } else { "takes" };
        return unlike(format!("{word} writes"));
    }
    // Without its flushes a cache of ours would never be told to empty itself.
    if geometry.write_cache && shown.basic.attrs & attrs::VOLATILE_CACHE == 0 {
        return unlike("doesn't flush".to_owned());
    }
    Ok(1u32
        .checked_shl(shown.basic.logical_bs_shift.into())
        .unwrap_or(wish.choice.logical_block))
}

/// Opens the character device, once its node is there and an earlier server's hold is gone.
async fn open_queue(
    info: &DeviceInfo,
    device: &Rc<dyn BlockDevice>,
    memory: Memory,
    env: &Env,
) -> Result<Rc<Queue>, UblkError> {
    let number = info.dev_id;
    let path = format!("/dev/ublkc{number}");
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => UblkError::NoPermission {
            what: path.clone(),
            error,
        },
        _ => UblkError::Queue { number, error },
    };
    let mut steps = 0;
    let file: File = loop {
        match open_device(Path::new(&path)) {
            Ok(file) => break file,
            Err(error) if steps < NODE_STEPS_MAX && is_passing(&error) => {
                steps += 1;
                env.clock.sleep(STEP).await;
            }
            Err(error) => return Err(refused(error)),
        }
    };
    let max_io = info.max_io_buf_bytes.min(uapi::MAX_IO_BYTES);
    let device = Rc::clone(device);
    Queue::start(file, info.queue_depth, max_io, device, memory, env).map_err(refused)
}

/// The node isn't there yet, or the one before us not gone.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EBUSY | libc::ENXIO)
    )
}

/// Waits for a command that needs the queue; if that one ends the command would never.
async fn with_queue(
    number: u32,
    queue: &Queue,
    command: impl Future<Output = Result<(), UblkError>>,
) -> Result<(), UblkError> {
    let result = tokio::select! {
        biased;
        result = command => result,
        error = queue.ended() => Err(UblkError::Queue { number, error }),
    };
    if result.is_err() {
        queue.close();
    }
    result
}

/// Deletes a stopped device and waits until its number is free, as long as nobody keeps it open.
async fn remove(control: &Control, number: u32, env: &Env) -> Result<(), UblkError> {
    control.delete(number).await?;
    for _ in 0..NODE_STEPS_MAX {
        if !Control::numbers().contains(&number) {
            return Ok(());
        }
        env.clock.sleep(STEP).await;
    }
    tracing::warn!(
        number,
        "the device is gone for all but those who have it open"
    );
    Ok(())
}

fn is_alive(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Bytes of a device, as `/sys` shows it; `None` if it isn't there.
pub fn shown_bytes(number: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/ublkb{number}/size")).ok()?;
    let sectors: u64 = text.trim().parse().ok()?;
    sectors.checked_mul(1 << SECTOR_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_never_what_others_leave_there() {
        let one = uuid::Uuid::from_u128(7 << 64 | 9);
        assert_eq!(Identity::of(one), Identity(7 ^ 9));
        assert_eq!(Identity::of(uuid::Uuid::nil()), Identity(1));
    }

    #[test]
    fn a_device_that_is_not_there_has_no_size() {
        assert_eq!(shown_bytes(u32::MAX - 1), None);
    }
}
