//! `cairn array …`

use cairn_api::{
    Array, ArrayList, AssembleArray, CreateArray, DestroyArray, Exit, SpareChange, StopArray,
    routes,
};

use super::scrub::{self, Patience};
use super::{Context, change, wait};
use crate::cli::{ArrayVerb, JournalPlace, SpareVerb};
use crate::error::ToolError;
use crate::paths::{absolute, all_absolute};
use crate::views;

pub(super) async fn run(context: &Context, verb: ArrayVerb) -> Result<Exit, ToolError> {
    match verb {
        ArrayVerb::Create {
            name,
            level,
            disks,
            spares,
            journal_disks,
            chunk,
            journal_size,
            integrity,
            journal,
            wipe,
            dry,
        } => {
            let label = format!("creating the array {name}");
            let request = CreateArray {
                name,
                level,
                disks: all_absolute(&disks)?,
                spares: all_absolute(&spares)?,
                journal_disks: all_absolute(&journal_disks)?,
                chunk_bytes: chunk,
                journal_bytes: journal_size,
                integrity,
                no_journal: journal == JournalPlace::None,
                wipe: all_absolute(&wipe)?,
                dry_run: dry.dry_run,
            };
            let lists = [&request.disks, &request.spares, &request.journal_disks];
            let known = |path: &String| lists.iter().any(|list| list.contains(path));
            if let Some(stray) = request.wipe.iter().find(|path| !known(path)) {
                return Err(ToolError::usage(
                    format!(
                        "--wipe names {stray}, which is in none of --disks, --spares and --journal-disks"
                    ),
                    "name each disk that may be wiped exactly as it is named there",
                ));
            }
            change::plain(context, &label, routes::ARRAY_CREATE.path, &request).await
        }
        ArrayVerb::List => {
            let list: ArrayList = context.client.get(routes::ARRAYS).await?;
            context.output.show(&list, views::array_list)?;
            Ok(Exit::Done)
        }
        ArrayVerb::Show { name } => {
            let array: Array = fetch(context, &name).await?;
            context.output.show(&array, views::array)?;
            Ok(Exit::Done)
        }
        ArrayVerb::Stop { name, consent } => {
            let label = format!("stopping {name}");
            let target = routes::ARRAY_STOP.with_name(&name);
            change::with_consent(context, &label, &target, &name, consent, |yes, dry| {
                StopArray {
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
        ArrayVerb::Assemble {
            name,
            scan,
            force,
            dry,
        } => {
            let request = AssembleArray {
                scan: all_absolute(&scan)?,
                force,
                dry_run: dry.dry_run,
            };
            let target = routes::ARRAY_ASSEMBLE.with_name(&name);
            change::plain(context, &format!("starting {name}"), &target, &request).await
        }
        ArrayVerb::Wait {
            name,
            goal,
            timeout,
        } => wait::run(context, &name, goal, timeout).await,
        ArrayVerb::Destroy { name, consent } => {
            let label = format!("destroying {name}");
            let target = routes::ARRAY_DESTROY.with_name(&name);
            change::with_consent(context, &label, &target, &name, consent, |yes, dry| {
                DestroyArray {
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
        ArrayVerb::Scrub {
            name,
            verb,
            wait,
            no_wait,
            dry,
        } => {
            let patience = Patience::of(wait, no_wait);
            scrub::run(context, &name, verb.action(), patience, dry).await
        }
        ArrayVerb::Spare(verb) => spare(context, verb).await,
    }
}

async fn spare(context: &Context, verb: SpareVerb) -> Result<Exit, ToolError> {
    match verb {
        SpareVerb::Add {
            name,
            path,
            wipe,
            dry,
        } => {
            let request = SpareChange {
                path: absolute(&path)?,
                wipe,
                yes: false,
                dry_run: dry.dry_run,
            };
            let target = routes::SPARE_ADD.with_name(&name);
            let label = format!("adding {} to {name}", request.path);
            change::plain(context, &label, &target, &request).await
        }
        SpareVerb::Remove {
            name,
            path,
            consent,
        } => {
            let path = absolute(&path)?;
            let target = routes::SPARE_REMOVE.with_name(&name);
            let label = format!("taking {path} from {name}");
            change::with_consent(context, &label, &target, &path, consent, |yes, dry| {
                SpareChange {
                    path: path.clone(),
                    wipe: false,
                    yes,
                    dry_run: dry.dry_run,
                }
            })
            .await
        }
    }
}

/// The array of that name, now.
pub(super) async fn fetch(context: &Context, name: &str) -> Result<Array, ToolError> {
    let target = routes::ARRAY.with_name(name);
    context
        .client
        .get_at(&target, std::time::Duration::ZERO)
        .await
}
