//! Commands on ublk's control device: features, and a device's life from being made to being gone.
//!
//! Most of them block until something else has happened (a start until the queue waits for requests
//! and partitions have been looked for, through that very queue); the kernel does them on workers of
//! the ring, so nothing here holds up the thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::UblkError;
use super::ring::CommandRing;
use super::uapi::{
    CONTROL_PATH, ControlCommand, DeviceInfo, NO_QUEUE, Op, Params, command_bytes, features,
    len_u16,
};
use crate::buf::Buf;
use crate::units::{u32_of, u64_of};

/// Commands under way on one handle: one, and another that its caller has given up.
const SLOTS: u16 = 4;
/// Where the kernel lists ublk's character devices.
const DEVICES_PATH: &str = "/sys/class/ublk-char";

/// A handle of the control device.
pub(crate) struct Control {
    ring: CommandRing,
    features: u64,
}

/// The process that this is, as the kernel wants to be told.
fn own_pid() -> u64 {
    u64::from(std::process::id())
}

impl Control {
    /// Opens it, and looks whether the driver can what is needed.
    pub(crate) async fn open() -> Result<Self, UblkError> {
        let file = open_device(CONTROL_PATH).map_err(|error| match error.raw_os_error() {
            // ENXIO, ENODEV: a node without a driver behind it.
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => UblkError::NoModule,
            _ => UblkError::NoPermission {
                what: CONTROL_PATH.to_owned(),
                error,
            },
        })?;
        let ring = CommandRing::start(file, SLOTS).map_err(UblkError::NoRing)?;
        let mut control = Self { ring, features: 0 };
        control.features = match control.get::<u64>(0, Op::GET_FEATURES, "features").await {
            Ok(features) => features,
            // Before Linux 6.5 there is no way to ask.
            Err(UblkError::Command { .. }) => 0,
            Err(error) => return Err(error),
        };
        match features::WANTED & !control.features {
            0 => Ok(control),
            missing => Err(UblkError::TooOld { missing }),
        }
    }

    /// Whether a running device can be resized.
    pub(crate) fn can_resize(&self) -> bool {
        self.features & features::UPDATE_SIZE != 0
    }

    /// Makes a device; the answer has its number.
    pub(crate) async fn add(&self, info: DeviceInfo) -> Result<DeviceInfo, UblkError> {
        let number = info.dev_id;
        let made = self.exchange(number, Op::ADD_DEV, "it can't be made", &info, 0);
        made.await
    }

    /// What the kernel knows of a device.
    pub(crate) async fn info(&self, number: u32) -> Result<DeviceInfo, UblkError> {
        self.get(number, Op::GET_DEV_INFO, "it can't be described")
            .await
    }

    pub(crate) async fn params(&self, number: u32) -> Result<Params, UblkError> {
        let wanted = Params {
            len: u32_of(size_of::<Params>()),
            ..Params::default()
        };
        let what = "its parameters can't be read";
        self.exchange(number, Op::GET_PARAMS, what, &wanted, 0)
            .await
    }

    pub(crate) async fn set_params(&self, number: u32, params: &Params) -> Result<(), UblkError> {
        let what = "its parameters aren't taken";
        let set = self.exchange(number, Op::SET_PARAMS, what, params, 0);
        set.await.map(drop)
    }

    /// Shows the device to the host. Needs the queue to be served meanwhile.
    pub(crate) async fn start(&self, number: u32) -> Result<(), UblkError> {
        let what = "it can't be started";
        self.tell(number, Op::START_DEV, what, own_pid()).await
    }

    /// Takes the device from the host. Waits for what is under way, so the queue must be served.
    pub(crate) async fn stop(&self, number: u32) -> Result<(), UblkError> {
        self.tell(number, Op::STOP_DEV, "it can't be stopped", 0)
            .await
    }

    /// Unmakes the device, without waiting for who has it open.
    pub(crate) async fn delete(&self, number: u32) -> Result<(), UblkError> {
        let what = "it can't be removed";
        match self.tell(number, Op::DEL_DEV_ASYNC, what, 0).await {
            // Before Linux 6.9 it waits.
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                self.tell(number, Op::DEL_DEV, what, 0).await
            }
            result => result,
        }
    }

    /// Readies a device whose server is gone for another; `EBUSY` while that one isn't all gone.
    pub(crate) async fn start_recovery(&self, number: u32) -> Result<(), UblkError> {
        let what = "it can't be taken up again";
        self.tell(number, Op::START_USER_RECOVERY, what, 0).await
    }

    /// Lets requests come again, those first that were with the old server. Needs the queue.
    pub(crate) async fn end_recovery(&self, number: u32) -> Result<(), UblkError> {
        let what = "it can't go on";
        let pid = own_pid();
        self.tell(number, Op::END_USER_RECOVERY, what, pid).await
    }

    /// Gives a running device another size.
    pub(crate) async fn update_size(&self, number: u32, sectors: u64) -> Result<(), UblkError> {
        let what = "its size can't be changed";
        self.tell(number, Op::UPDATE_SIZE, what, sectors).await
    }

    /// The numbers of all devices there are, anybody's.
    pub(crate) fn numbers() -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(DEVICES_PATH) else {
            return Vec::new();
        };
        let number = |entry: io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("ublkc")?.parse().ok()
        };
        let mut numbers: Vec<u32> = entries.filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// A command that only answers.
    async fn get<T>(&self, number: u32, op: Op, what: &'static str) -> Result<T, UblkError>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        self.exchange(number, op, what, &T::new_zeroed(), 0).await
    }

    /// A command without a structure.
    async fn tell(
        &self,
        number: u32,
        op: Op,
        what: &'static str,
        data: u64,
    ) -> Result<(), UblkError> {
        self.send(number, op, what, None, data).await.map(drop)
    }

    /// A command with a structure, which comes back as the kernel left it.
    async fn exchange<T>(
        &self,
        number: u32,
        op: Op,
        what: &'static str,
        value: &T,
        data: u64,
    ) -> Result<T, UblkError>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let memory = Buf::copy_of(value.as_bytes());
        let memory = self.send(number, op, what, Some(memory), data).await?;
        let read = memory.and_then(|memory| T::read_from_bytes(&memory).ok());
        // The same memory as was given, so it has the length.
        read.ok_or_else(|| UblkError::command(number, what, libc::EIO))
    }

    async fn send(
        &self,
        number: u32,
        op: Op,
        what: &'static str,
        memory: Option<Buf>,
        data: u64,
    ) -> Result<Option<Buf>, UblkError> {
        let command = ControlCommand {
            dev_id: number,
            queue_id: NO_QUEUE,
            len: memory.as_ref().map_or(0, |memory| len_u16(memory.len())),
            addr: memory
                .as_ref()
                .map_or(0, |memory| u64_of(memory.as_ptr().expose_provenance())),
            data,
            dev_path_len: 0,
            pad: 0,
            reserved: 0,
        };
        let busy = || UblkError::command(number, what, libc::EBUSY);
        let slot = self.ring.free_slot().ok_or_else(busy)?;
        let bytes = command_bytes(&command);
        let completed = self.ring.run(slot, op, bytes, memory).await;
        let completed = completed.ok_or_else(busy)?;
        if completed.code < 0 {
            return Err(UblkError::command(number, what, -completed.code));
        }
        Ok(completed.memory)
    }
}

/// Opens a device of the driver's to read and write.
pub(crate) fn open_device(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
