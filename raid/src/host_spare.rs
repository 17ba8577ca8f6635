//! The label of a disk that waits in its host's pool of spares, for any array of that host.
//!
//! It lies where labels of members do, begins as they do, and has an incompat bit that those never have:
//! who looks for members refuses it, this version as well as older ones.
//!
//! ```text
//!      0 magic  8 version  12 header_len  16 compat  24 ro_compat  32 incompat: INCOMPAT_HOST_SPARE
//!     40 array uuid: nil  56 disk uuid  72 host
//!     88 disk bytes  96 in the pool since (ms)
//!    104 reserved … 4092 crc32c of all bytes before it
//! ```
//!
//! Three copies a disk, all alike. An array that takes the disk overwrites the one before the end last,
//! after its own label is durable in a slot ([`retreat`], and the array's commit): a crash leaves the disk
//! in the pool or in the array.
//!
//! Invariants
//! - A member's label on the same disk counts, and this one doesn't.
//! - A disk with a whole copy of it, and no member's label, is in the pool.
//!
//! Does not know: which disks a pool has, whose turn it is, arrays.

use cairn_blockdev::units::{BLOCK, BLOCK_BYTES};
use cairn_blockdev::{BlockDevice, Buf, IoError, WriteFlags};
use futures_util::future::LocalBoxFuture;
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::RaidError;
use crate::label::{INCOMPAT_HOST_SPARE, LABEL_MAGIC, LABEL_VERSION, LabelError, sum};
use crate::layout::{JOURNAL_MIN, LABEL_A, LABEL_B, ZONES_START, label_copy};

/// Below this size no array whatever takes a disk.
pub const HOST_SPARE_BYTES_MIN: u64 = ZONES_START + JOURNAL_MIN;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
struct RawHostSpare {
    magic: [u8; 8],
    version: U32,
    header_len: U32,
    compat: U64,
    ro_compat: U64,
    incompat: U64,
    array_uuid: [u8; 16],
    disk_uuid: [u8; 16],
    host: [u8; 16],
    disk_bytes: U64,
    since_ms: U64,
    reserved: [u8; 3988],
    crc32c: U32,
}

const _: () = assert!(size_of::<RawHostSpare>() == BLOCK_BYTES);

/// Bytes up to the reserved ones.
const HEADER_LEN: u32 = 104;

/// What a disk of a pool says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSpare {
    /// The disk, for as long as it is in the pool; an array that takes it gives it another identity.
    pub uuid: Uuid,
    /// The host whose arrays may take it.
    pub host: Uuid,
    /// Its size when it was put in.
    pub disk_bytes: u64,
    /// When that was, in ms since 1970.
    pub since_ms: u64,
}

impl HostSpare {
    /// The 4 KiB to write.
    pub fn encode(&self) -> Box<[u8]> {
        let mut raw = RawHostSpare::new_zeroed();
        raw.magic = LABEL_MAGIC;
        raw.version = LABEL_VERSION.into();
        raw.header_len = HEADER_LEN.into();
        raw.incompat = INCOMPAT_HOST_SPARE.into();
        raw.disk_uuid = self.uuid.into_bytes();
        raw.host = self.host.into_bytes();
        raw.disk_bytes = self.disk_bytes.into();
        raw.since_ms = self.since_ms.into();
        raw.crc32c = sum(raw.as_bytes()).into();
        raw.as_bytes().into()
    }

    /// Decodes and checks 4 KiB. A member's label is [`LabelError::Absent`] here.
    pub fn decode(bytes: &[u8]) -> Result<Self, LabelError> {
        let raw =
            RawHostSpare::ref_from_bytes(bytes).map_err(|_| LabelError::Nonsense("its length"))?;
        if raw.magic != LABEL_MAGIC {
            return Err(LabelError::Absent);
        }
        if raw.crc32c.get() != sum(bytes) {
            return Err(LabelError::Checksum);
        }
        if raw.version.get() != LABEL_VERSION {
            return Err(LabelError::Version(raw.version.get()));
        }
        let incompat = raw.incompat.get();
        if incompat & INCOMPAT_HOST_SPARE == 0 {
            return Err(LabelError::Absent);
        }
        // Nobody writes to it in place: what an older version must not write, it doesn't take either.
        let unknown = incompat & !INCOMPAT_HOST_SPARE | raw.ro_compat.get();
        if unknown != 0 {
            return Err(LabelError::Incompat(unknown));
        }
        if raw.array_uuid != [0; 16] {
            return Err(LabelError::Nonsense("a spare of a host with an array"));
        }
        Ok(Self {
            uuid: Uuid::from_bytes(raw.disk_uuid),
            host: Uuid::from_bytes(raw.host),
            disk_bytes: raw.disk_bytes.get(),
            since_ms: raw.since_ms.get(),
        })
    }
}

/// The label's places on a disk of `size`, the one before the end last.
fn places(size: u64) -> impl Iterator<Item = u64> {
    [LABEL_A, LABEL_B, label_copy(size)]
        .into_iter()
        .filter(move |offset| offset + BLOCK <= size)
}

async fn read_at(device: &dyn BlockDevice, offset: u64) -> Result<Buf, IoError> {
    let (buf, result) = device.read(offset, Buf::zeroed(BLOCK_BYTES)).await;
    result.map(|()| buf)
}

/// The label of a disk in a pool, if it bears one; whether a member's is there as well is the caller's
/// to ask. An error only if no place can be read.
pub(crate) async fn read(device: &dyn BlockDevice) -> Result<Option<HostSpare>, IoError> {
    let mut failed = None;
    let mut seen_any = false;
    for offset in places(device.geometry().size) {
        match read_at(device, offset).await {
            Ok(buf) => {
                seen_any = true;
                if let Ok(spare) = HostSpare::decode(&buf) {
                    return Ok(Some(spare));
                }
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if !seen_any => Err(error),
        _ => Ok(None),
    }
}

async fn write_at(device: &dyn BlockDevice, offset: u64, spare: &HostSpare) -> Result<(), IoError> {
    let bytes = Buf::copy_of(&spare.encode()).freeze();
    device
        .write(offset, bytes, WriteFlags { fua: true })
        .await?;
    device.flush().await
}

/// Makes every copy of the label right: of a disk that is put in a pool, and of one that an array began to
/// take and didn't. Those that are right aren't written.
///
/// The caller has made sure that the disk may be written: it is blank, or bears this label.
pub fn write_host_spare<'a>(
    device: &'a dyn BlockDevice,
    spare: &'a HostSpare,
) -> LocalBoxFuture<'a, Result<(), RaidError>> {
    Box::pin(async move {
        let size = device.geometry().size;
        if size < HOST_SPARE_BYTES_MIN {
            return Err(RaidError::TooSmall {
                disk: device.name().to_string(),
                size,
                need: HOST_SPARE_BYTES_MIN,
                what: "a spare of any array".into(),
            });
        }
        for offset in places(size) {
            let is_right = read_at(device, offset)
                .await
                .is_ok_and(|buf| HostSpare::decode(&buf).as_ref() == Ok(spare));
            if !is_right {
                write_at(device, offset, spare).await?;
            }
        }
        Ok(())
    })
}

/// Before the slots are overwritten by an array that takes the disk: makes sure that the copy before
/// the end is there, by which a crash finds the disk in the pool. True if the disk is in a pool.
pub(crate) async fn retreat(device: &dyn BlockDevice) -> Result<bool, IoError> {
    let Some(spare) = read(device).await? else {
        return Ok(false);
    };
    let copy = label_copy(device.geometry().size);
    let buf = read_at(device, copy).await?;
    if HostSpare::decode(&buf).as_ref() != Ok(&spare) {
        write_at(device, copy, &spare).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};
    use proptest::prelude::*;

    use super::*;
    use crate::label::Label;
    use crate::{Probe, probe};

    fn sample() -> HostSpare {
        HostSpare {
            uuid: Uuid::from_bytes([3; 16]),
            host: Uuid::from_bytes([8; 16]),
            disk_bytes: 512 << 20,
            since_ms: 1_700_000_000_000,
        }
    }

    fn disk(mib: u64) -> (Sim, SimDisk) {
        let sim = Sim::new(1);
        let config = SimDiskConfig {
            size: mib << 20,
            logical_block: 512,
            latency_us_max: 100,
        };
        let disk = SimDisk::new("/dev/sim", config, &sim.env(), 1);
        (sim, disk)
    }

    #[test]
    fn the_label_of_a_host_spare_of_version_1_is_read_for_ever() {
        let golden = include_bytes!("../tests/golden/host-spare-v1.bin");
        assert_eq!(HostSpare::decode(golden).unwrap(), sample());
        assert_eq!(
            &*sample().encode(),
            &golden[..],
            "the encoding of version 1 changed"
        );
    }

    #[test]
    fn neither_label_is_ever_taken_for_the_other() {
        assert_eq!(
            Label::decode(&sample().encode()),
            Err(LabelError::Incompat(INCOMPAT_HOST_SPARE))
        );
        let member = crate::label::tests::sample().encode();
        assert_eq!(HostSpare::decode(&member), Err(LabelError::Absent));
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let good = sample().encode();
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0x40;
            assert!(HostSpare::decode(&bytes).is_err(), "byte {at}");
        }
    }

    fn sealed(at: usize, value: u8) -> Vec<u8> {
        let mut bytes = sample().encode().to_vec();
        bytes[at] |= value;
        let crc = sum(&bytes);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn unknown_features_and_an_array_are_refused() {
        for at in [24, 32] {
            let refused = HostSpare::decode(&sealed(at, 1 << 6));
            assert_eq!(refused, Err(LabelError::Incompat(1 << 6)), "{at}");
        }
        assert!(HostSpare::decode(&sealed(8, 2)).is_err(), "a newer version");
        let with_array = HostSpare::decode(&sealed(40, 1));
        assert!(matches!(with_array, Err(LabelError::Nonsense(_))));
        assert_eq!(
            HostSpare::decode(&sealed(16, 1)),
            Ok(sample()),
            "what older versions may ignore is no reason"
        );
    }

    #[test]
    fn any_one_copy_is_enough_and_the_others_are_made_again() {
        for kept in [LABEL_A, LABEL_B, label_copy(64 << 20)] {
            let (sim, disk) = disk(64);
            let bytes = Buf::copy_of(&sample().encode()).freeze();
            sim.block_on(disk.write(kept, bytes, WriteFlags::default()))
                .unwrap();
            let found = sim.block_on(probe(&disk)).unwrap();
            assert_eq!(found, Probe::HostSpare(sample()));
            sim.block_on(write_host_spare(&disk, &sample())).unwrap();
            for offset in places(64 << 20) {
                let buf = sim.block_on(read_at(&disk, offset)).unwrap();
                assert_eq!(HostSpare::decode(&buf), Ok(sample()));
            }
        }
    }

    #[test]
    fn a_disk_that_no_array_could_take_is_refused_before_it_is_written() {
        let (sim, disk) = disk(19);
        let refused = sim.block_on(write_host_spare(&disk, &sample()));
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("19922944") && text.contains("20971520"),
            "{text}"
        );
        assert_eq!(sim.block_on(probe(&disk)).unwrap(), Probe::Blank);
    }

    #[test]
    fn retreating_leaves_the_copy_before_the_end() {
        let (sim, disk) = disk(64);
        assert!(!sim.block_on(retreat(&disk)).unwrap(), "a blank disk");
        let bytes = Buf::copy_of(&sample().encode()).freeze();
        sim.block_on(disk.write(LABEL_A, bytes, WriteFlags::default()))
            .unwrap();
        assert!(sim.block_on(retreat(&disk)).unwrap());
        let buf = sim.block_on(read_at(&disk, label_copy(64 << 20))).unwrap();
        assert_eq!(HostSpare::decode(&buf), Ok(sample()));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = HostSpare::decode(&bytes);
        }

        /// A right checksum over wrong contents.
        #[test]
        fn sealed_nonsense_never_panics(at in 8usize..4092, len in 1usize..64, value: u8) {
            let mut bytes = sample().encode().to_vec();
            let end = (at + len).min(4092);
            bytes[at..end].fill(value);
            let crc = sum(&bytes);
            bytes[4092..].copy_from_slice(&crc.to_le_bytes());
            let _ = HostSpare::decode(&bytes);
        }
    }
}
