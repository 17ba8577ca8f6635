//! `cairn volume …`

use std::time::Duration;

use cairn_api::{
    BlockChoice, CreateVolume, DeleteVolume, Exit, ExportVolume, KERNEL, NbdAddress, ResizeVolume,
    UBLK, UnexportVolume, Volume, VolumeList, routes,
};

use super::{Context, change};
use crate::cli::VolumeVerb;
use crate::error::ToolError;
use crate::views;

pub(super) async fn run(context: &Context, verb: VolumeVerb) -> Result<Exit, ToolError> {
    match verb {
        VolumeVerb::Create {
            name,
            array,
            size,
            dry,
        } => {
            let label = format!("creating the volume {name}");
            let request = CreateVolume {
                name,
                array,
                size_bytes: size,
                dry_run: dry.dry_run,
            };
            change::plain(context, &label, routes::VOLUME_CREATE.path, &request).await
        }
        VolumeVerb::List => {
            let list: VolumeList = context.client.get(routes::VOLUMES).await?;
            context.output.show(&list, views::volume_list)?;
            Ok(Exit::Done)
        }
        VolumeVerb::Show { name } => {
            let target = routes::VOLUME.with_name(&name);
            let volume: Volume = context.client.get_at(&target, Duration::ZERO).await?;
            context.output.show(&volume, views::volume)?;
            Ok(Exit::Done)
        }
        VolumeVerb::Resize {
            name,
            size,
            consent,
        } => {
            let label = format!("resizing {name}");
            let target = routes::VOLUME_RESIZE.with_name(&name);
            change::with_consent(context, &label, &target, &name, consent, |yes, dry| {
                ResizeVolume {
                    size_bytes: size,
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
        VolumeVerb::Delete { name, consent } => {
            let label = format!("deleting {name}");
            let target = routes::VOLUME_DELETE.with_name(&name);
            change::with_consent(context, &label, &target, &name, consent, |yes, dry| {
                DeleteVolume {
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
        VolumeVerb::Export {
            name,
            nbd,
            block,
            ublk,
            logical_block,
            kernel_nbd,
            read_only,
            dry,
        } => {
            // The command line has one of the four.
            let address = nbd.or(kernel_nbd.then_some(NbdAddress::Kernel));
            let request = ExportVolume {
                nbd: address.map_or_else(String::new, |address| address.to_string()),
                ublk,
                block,
                logical_block,
                read_only,
                dry_run: dry.dry_run,
            };
            let devices: &[&str] = match (block, ublk, kernel_nbd) {
                (Some(BlockChoice::Auto), ..) => &[UBLK, KERNEL],
                (_, true, _) => &[UBLK],
                (_, _, true) => &[KERNEL],
                _ => &[],
            };
            let target = routes::VOLUME_EXPORT.with_name(&name);
            let label = format!("exporting {name}");
            change::with_path(context, &label, &target, &request, |reply| {
                let exports = &reply.volume.as_ref()?.exports;
                let at = |place: &&str| exports.iter().find(|export| export.nbd == *place);
                devices.iter().find_map(at).map(|export| export.uri.clone())
            })
            .await
        }
        VolumeVerb::Unexport {
            name,
            nbd,
            ublk,
            kernel_nbd,
            force,
            consent,
        } => {
            let label = format!("unexporting {name}");
            let target = routes::VOLUME_UNEXPORT.with_name(&name);
            let kernel = kernel_nbd.then_some(NbdAddress::Kernel);
            let nbd = match nbd.or(kernel) {
                Some(address) => Some(address.to_string()),
                None => ublk.then(|| UBLK.to_owned()),
            };
            change::with_consent(context, &label, &target, &name, consent, |yes, dry| {
                UnexportVolume {
                    nbd: nbd.clone(),
                    force,
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
    }
}
