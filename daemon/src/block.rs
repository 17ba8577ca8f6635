//! One volume as a block device of this host, served on the engine thread of its array.
//!
//! Invariants
//! - The device outlives the daemon: whether it stops or dies, requests wait for the next one, and
//!   nobody who uses the device sees an error.
//! - After [`BlockServing::give_up`] or [`BlockServing::remove`] no request of it touches the volume
//!   any more, unless a request hung for longer than [`DRAIN_TIMEOUT`].

use std::rc::Rc;

use cairn_blockdev::BlockDevice;
use cairn_blockdev::export::ublk::{self, Grown, Identity, Origin, Ublk, Wish};
use tokio::time::timeout;
use uuid::Uuid;

use crate::engine::Engine;
use crate::record::UblkRecord;
use crate::serving::DRAIN_TIMEOUT;

/// A block device that is served.
pub struct BlockServing {
    ublk: Ublk,
}

impl BlockServing {
    /// Makes the device of a volume, or takes up the one that an earlier daemon left. The error is a
    /// sentence.
    pub async fn start(
        engine: &Engine,
        volume: Uuid,
        record: &UblkRecord,
        read_only: bool,
        device: Rc<dyn BlockDevice>,
    ) -> Result<(Self, Origin), String> {
        let wish = Wish {
            identity: Identity::of(volume),
            number: record.number,
            choice: ublk::Choice {
                logical_block: record.logical_block,
                read_only,
            },
        };
        let place = ublk::Place {
            memory: engine.block_memory.clone(),
            env: engine.env.clone(),
            remains: engine.remains.clone(),
        };
        let (ublk, origin) = Ublk::start(wish, device, place)
            .await
            .map_err(|error| error.to_string())?;
        Ok((Self { ublk }, origin))
    }

    /// N of /dev/ublkbN; `None` once somebody else has removed it.
    pub fn number(&self) -> Option<u32> {
        self.ublk.is_serving().then(|| self.ublk.number())
    }

    /// Bytes of its logical block.
    pub fn logical_block(&self) -> u32 {
        self.ublk.logical_block()
    }

    /// Shows the volume's new size.
    pub async fn grow(&self) -> Result<Grown, String> {
        self.ublk.grow().await.map_err(|error| error.to_string())
    }

    /// Stops serving; the device stays, and waits for the next daemon, or for this one once the engine
    /// thread has ended.
    pub async fn give_up(&self) {
        if timeout(DRAIN_TIMEOUT, self.ublk.give_up()).await.is_err() {
            tracing::warn!(
                number = self.ublk.number(),
                "requests of this block device didn't end in time: the next server has them again"
            );
        }
    }

    /// Takes the device from the host.
    pub async fn remove(&self) -> Result<(), String> {
        match timeout(DRAIN_TIMEOUT, self.ublk.remove()).await {
            Ok(removed) => removed.map_err(|error| error.to_string()),
            Err(_) => Err(format!(
                "requests on {} don't end; look at the disks of its array",
                ublk::path(self.ublk.number()).display()
            )),
        }
    }
}
