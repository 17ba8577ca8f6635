//! Disks that note everything that is done to them, in one order for all: block devices of this host's
//! kernel, for an array whose power is to be cut afterwards.
//!
//! They have a volatile cache and say so; the kernel's requests reach the record one by one.
//!
//! Does not know: who uses them.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use cairn_blockdev::export::ublk::{self, Identity, Place, Remains, Ublk, Wish};
use cairn_blockdev::units::u64_of;
use cairn_blockdev::{
    BlockDevice, Buf, DeviceGeometry, IoError, IoErrorKind, IoFuture, IoOp, LocalFuture,
    ReadResult, SharedBuf, WriteFlags, ZeroFlags,
};
use cairnd::engine::{Engine, EngineConfig, EngineHandle};
use uuid::Uuid;

use super::record::{Deed, Entry};
use super::{Answer, Told, at};

/// Sector of the disks.
const SECTOR_BYTES: u32 = 512;

/// One of them, over a file that holds what it would give.
struct Recorded {
    name: Rc<str>,
    number: u8,
    bytes: u64,
    contents: File,
    record: Rc<RefCell<File>>,
}

impl Recorded {
    fn note(&self, deed: Deed) -> std::io::Result<()> {
        let entry = Entry {
            disk: self.number,
            deed,
        };
        entry.append(&mut *self.record.borrow_mut())
    }

    /// The end of an operation that has been done.
    fn end(
        &self,
        done: std::io::Result<()>,
        op: IoOp,
        offset: u64,
        len: u64,
    ) -> Result<(), IoError> {
        done.map_err(|error| {
            // The test's own files: without them nothing it says is worth anything.
            eprintln!("{}: {error}", self.name);
            IoError::new(IoErrorKind::Medium, &self.name, op, offset, len)
        })
    }

    fn store(&self, offset: u64, data: &[u8], fua: bool) -> std::io::Result<()> {
        self.contents.write_all_at(data, offset)?;
        // New arrays are zeroed over tens of MiB.
        self.note(if data.iter().all(|byte| *byte == 0) {
            let len = u64_of(data.len());
            Deed::Zero { offset, len, fua }
        } else {
            let data = data.to_vec();
            Deed::Write { offset, data, fua }
        })
    }

    fn zero(&self, offset: u64, len: u64, fua: bool) -> std::io::Result<()> {
        const PIECE: u64 = 1 << 20;
        let zeros = vec![0; cairn_blockdev::units::usize_of(PIECE)];
        let mut done = 0;
        while done < len {
            let now = PIECE.min(len - done);
            let part = zeros
                .get(..cairn_blockdev::units::usize_of(now))
                .unwrap_or_default();
            self.contents.write_all_at(part, offset + done)?;
            done += now;
        }
        self.note(Deed::Zero { offset, len, fua })
    }
}

impl BlockDevice for Recorded {
    fn name(&self) -> Rc<str> {
        Rc::clone(&self.name)
    }

    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            size: self.bytes,
            logical_block: SECTOR_BYTES,
            physical_block: 512,
            io_min: 4096,
            io_opt: 0,
            rotational: false,
            write_cache: true,
        }
    }

    fn read(&self, offset: u64, mut buf: Buf) -> LocalFuture<ReadResult> {
        let len = u64_of(buf.len());
        let done = self.check(IoOp::Read, offset, len).and_then(|()| {
            let done = self.contents.read_exact_at(&mut buf, offset);
            self.end(done, IoOp::Read, offset, len)
        });
        Box::pin(std::future::ready((buf, done)))
    }

    fn write(&self, offset: u64, data: SharedBuf, flags: WriteFlags) -> IoFuture<()> {
        let len = u64_of(data.len());
        let done = self.check(IoOp::Write, offset, len).and_then(|()| {
            self.end(
                self.store(offset, &data, flags.fua),
                IoOp::Write,
                offset,
                len,
            )
        });
        Box::pin(std::future::ready(done))
    }

    fn flush(&self) -> IoFuture<()> {
        let done = self.end(self.note(Deed::Flush), IoOp::Flush, 0, 0);
        Box::pin(std::future::ready(done))
    }

    fn discard(&self, offset: u64, len: u64) -> IoFuture<()> {
        self.write_zeroes(offset, len, ZeroFlags::default())
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> IoFuture<()> {
        let done = self.check(IoOp::Write, offset, len).and_then(|()| {
            let done = self.zero(offset, len, flags.fua);
            self.end(done, IoOp::Write, offset, len)
        });
        Box::pin(std::future::ready(done))
    }
}

/// Makes `count` disks of `bytes` each, with their contents and the record as files in `dir`, tells
/// their paths, and serves them until the process ends.
pub async fn serve(count: u8, bytes: u64, dir: &Path) -> Answer<()> {
    let engine = EngineHandle::start(EngineConfig {
        hooks: Box::new(|| Rc::new(Told::default()).hooks()),
        arena_bytes: 0,
        nbd_in_flight_bytes_max: 0,
    });
    let engine = engine.await.map_err(|error| format!("{error:?}"))?;
    let dir = dir.to_owned();
    let served = engine.call(move |engine| async move {
        match start(&engine, count, bytes, &dir).await {
            Ok(disks) => {
                for disk in &disks {
                    println!("{}", ublk::path(disk.number()).display());
                }
                // Whoever reads them waits for all.
                println!("ready");
                drop(std::io::stdout().flush());
                std::future::pending::<Result<(), String>>().await
            }
            Err(error) => Err(error),
        }
    });
    served.await.map_err(|error| format!("{error:?}"))?
}

async fn start(engine: &Engine, count: u8, bytes: u64, dir: &Path) -> Answer<Vec<Ublk>> {
    let file = |name: &str| {
        let path = dir.join(name);
        let opened = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        opened.map_err(at(&path))
    };
    let record = Rc::new(RefCell::new(file("record")?));
    let mut disks = Vec::new();
    for number in 0..count {
        let contents = file(&format!("disk{number}"))?;
        contents.set_len(bytes).map_err(|error| error.to_string())?;
        let device = Rc::new(Recorded {
            name: format!("recorded disk {number}").into(),
            number,
            bytes,
            contents,
            record: Rc::clone(&record),
        });
        let wish = Wish {
            identity: Identity::of(Uuid::new_v4()),
            number: None,
            choice: ublk::Choice {
                logical_block: SECTOR_BYTES,
                read_only: false,
            },
        };
        let place = Place {
            memory: engine.block_memory.clone(),
            env: engine.env.clone(),
            remains: Remains::default(),
        };
        let started = Ublk::start(wish, device, place).await;
        disks.push(started.map_err(|error| error.to_string())?.0);
    }
    Ok(disks)
}
