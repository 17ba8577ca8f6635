//! `cairn volume …`

use std::time::Duration;

use cairn_api::{
    CreateVolume, DeleteVolume, Exit, ExportVolume, NbdAddress, ResizeVolume, UnexportVolume,
    Volume, VolumeList, routes,
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
            kernel_nbd,
            read_only,
            dry,
        } => {
            // The command line has one of the two.
            let address = nbd.filter(|_| !kernel_nbd).unwrap_or(NbdAddress::Kernel);
            let request = ExportVolume {
                nbd: address.to_string(),
                read_only,
                dry_run: dry.dry_run,
            };
            let target = routes::VOLUME_EXPORT.with_name(&name);
            change::plain(context, &format!("exporting {name}"), &target, &request).await
        }
        VolumeVerb::Unexport {
            name,
            nbd,
            kernel_nbd,
            consent,
        } => {
            let label = format!("unexporting {name}");
            let target = routes::VOLUME_UNEXPORT.with_name(&name);
            let kernel = kernel_nbd.then_some(NbdAddress::Kernel);
            let nbd = nbd.or(kernel).map(|address| address.to_string());
            change::with_consent(context, &label, &target, &name, consent, |yes, dry| {
                UnexportVolume {
                    nbd: nbd.clone(),
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
    }
}
