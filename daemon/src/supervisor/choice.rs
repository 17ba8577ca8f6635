//! Which kind of block device a volume becomes where the operator leaves that to the daemon.
//!
//! Invariants
//! - A volume that is a block device already stays the one that it is, whatever the kernel has now.
//! - What is chosen is an export like any other: it is remembered by its kind, not as a choice.

use cairn_api::{BlockChoice, ErrorCode, ErrorDetail, ExportVolume, KERNEL, UBLK};
use cairn_blockdev::export::ublk;
use uuid::Uuid;

use super::volumes::Found;
use super::{Supervisor, locked};
use crate::kernel_nbd;
use crate::refuse::{Answer, invalid, refuse};

/// A kind of block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ublk,
    KernelNbd,
}

impl Supervisor {
    /// The request with what is left to the daemon filled in, and why it isn't the best kind.
    pub(super) async fn choose_block(
        &self,
        found: &Found,
        mut request: ExportVolume,
    ) -> Answer<(ExportVolume, Option<String>)> {
        let Some(BlockChoice::Auto) = request.block.take() else {
            return Ok((request, None));
        };
        if !request.nbd.is_empty() || request.ublk {
            return Err(invalid(
                "either the daemon chooses the block device or the request says which",
                "leave out one of the two",
            ));
        }
        let present = self.present_kind(found.info.uuid);
        let left = found.info.uuid;
        let left = tokio::task::spawn_blocking(move || kernel_nbd::device_of(left)).await;
        let (kind, remark) = match (present, left) {
            (Some(kind), _) => (kind, None),
            // Of a daemon that has lost its memory: its users wait for it to be taken up.
            (None, Ok(Some(_))) => (Kind::KernelNbd, None),
            (None, _) => self.best_kind(found).await?,
        };
        match kind {
            Kind::Ublk => request.ublk = true,
            Kind::KernelNbd => KERNEL.clone_into(&mut request.nbd),
        }
        Ok((request, remark))
    }

    /// The kind of block device that the volume is exported as.
    fn present_kind(&self, volume: Uuid) -> Option<Kind> {
        let exports = locked(&self.exports);
        let is_at = |place: &str| exports.contains_key(&(volume, place.to_owned()));
        match (is_at(UBLK), is_at(KERNEL)) {
            (true, _) => Some(Kind::Ublk),
            (false, true) => Some(Kind::KernelNbd),
            (false, false) => None,
        }
    }

    /// The best kind that this host has now, and what a better one lacks.
    async fn best_kind(&self, found: &Found) -> Answer<(Kind, Option<String>)> {
        let name = &found.info.name;
        let ublk = found
            .engine
            .call(|_| async { ublk::probe().await.map_err(|error| error.to_string()) });
        let Err(no_ublk) = ublk.await? else {
            return Ok((Kind::Ublk, None));
        };
        let nbd = tokio::task::spawn_blocking(kernel_nbd::available).await;
        match nbd.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => {
                let remark = format!("by the kernel's NBD client instead of ublk: {no_ublk}");
                Ok((Kind::KernelNbd, Some(remark)))
            }
            Err(no_nbd) => Err(neither(name, &no_ublk, &no_nbd)),
        }
    }
}

/// Says what each kind lacks, and the way that needs none.
fn neither(name: &str, no_ublk: &str, no_nbd: &str) -> ErrorDetail {
    refuse(
        ErrorCode::ExportAddress,
        format!(
            "volume {name} can't be a block device here, neither by ublk ({no_ublk}) nor by the \
             kernel's NBD client ({no_nbd})"
        ),
        format!(
            "mend what either lacks, then export it again; or without either, `cairn volume export {name} \
             --nbd unix:/run/cairn/{name}.sock`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_either_kind_both_causes_and_a_way_on_are_named() {
        let refusal = neither("pg", "no ublk", "no nbd");
        assert_eq!(refusal.code, ErrorCode::ExportAddress);
        for words in ["volume pg", "no ublk", "no nbd"] {
            assert!(refusal.message.contains(words), "{}", refusal.message);
        }
        assert!(refusal.hint.contains("--nbd unix:"), "{}", refusal.hint);
    }
}
