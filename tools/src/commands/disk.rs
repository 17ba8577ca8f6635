//! `cairn disk …`

use std::time::Duration;

use cairn_api::{
    AddDisks, Disk, DiskList, Exit, FailDisk, RemoveDisk, ReplaceDisk, WipeDisk, routes,
};

use super::{Context, change};
use crate::cli::DiskVerb;
use crate::error::ToolError;
use crate::locate;
use crate::paths::{absolute, all_absolute};
use crate::views;

pub(super) async fn run(context: &Context, verb: DiskVerb) -> Result<Exit, ToolError> {
    match verb {
        DiskVerb::List => {
            let list: DiskList = context.client.get(routes::DISKS).await?;
            context.output.show(&list, views::disk_list)?;
            Ok(Exit::Done)
        }
        DiskVerb::Show { path } => {
            let target = routes::DISK.with_query(&[("path", Some(absolute(&path)?))]);
            let disk: Disk = context.client.get_at(&target, Duration::ZERO).await?;
            context.output.show(&disk, views::disk)?;
            Ok(Exit::Done)
        }
        DiskVerb::Add { paths, wipe, dry } => {
            let request = AddDisks {
                paths: all_absolute(&paths)?,
                wipe: all_absolute(&wipe)?,
                dry_run: dry.dry_run,
            };
            let label = format!("adding {}", request.paths.join(", "));
            change::plain(context, &label, routes::DISK_ADD.path, &request).await
        }
        DiskVerb::Fail { path, consent } => {
            let path = absolute(&path)?;
            let label = format!("failing {path}");
            let target = routes::DISK_FAIL.path;
            change::with_consent(context, &label, target, &path, consent, |yes, dry| {
                FailDisk {
                    path: path.clone(),
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
        DiskVerb::Remove { path, consent } => {
            let path = absolute(&path)?;
            let label = format!("removing {path}");
            let target = routes::DISK_REMOVE.path;
            change::with_consent(context, &label, target, &path, consent, |yes, dry| {
                RemoveDisk {
                    path: path.clone(),
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
        DiskVerb::Replace {
            old,
            new,
            wipe,
            dry,
        } => {
            let request = ReplaceDisk {
                old: absolute(&old)?,
                new: absolute(&new)?,
                wipe,
                dry_run: dry.dry_run,
            };
            let label = format!("replacing {} by {}", request.old, request.new);
            change::plain(context, &label, routes::DISK_REPLACE.path, &request).await
        }
        DiskVerb::Locate(args) => locate::run(context.output, args).await,
        DiskVerb::Wipe { path, consent } => {
            let path = absolute(&path)?;
            let label = format!("wiping {path}");
            let target = routes::DISK_WIPE.path;
            change::with_consent(context, &label, target, &path, consent, |yes, dry| {
                WipeDisk {
                    path: path.clone(),
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
    }
}
