//! Changing requests: dry run, consent, then the deed.

use cairn_api::{Changed, Exit};
use serde::Serialize;

use super::Context;
use crate::cli::{Consent, DryRun, Format};
use crate::confirm;
use crate::error::ToolError;
use crate::output::{say, write_stdout};
use crate::progress::spinning;
use crate::views;

/// Sends a request that destroys nothing.
pub(super) async fn plain<R: Serialize>(
    context: &Context,
    label: &str,
    target: &str,
    request: &R,
) -> Result<Exit, ToolError> {
    let reply = send(context, label, target, request).await?;
    show(context, &reply)
}

/// Sends a request that may destroy something.
///
/// `request` builds it for given consent and dry run; `word` is what a person types to confirm.
pub(super) async fn with_consent<R: Serialize>(
    context: &Context,
    label: &str,
    target: &str,
    word: &str,
    consent: Consent,
    request: impl Fn(bool, DryRun) -> R,
) -> Result<Exit, ToolError> {
    let Consent { mut yes, dry } = consent;
    if !yes && !dry.dry_run {
        let preview: Changed = context
            .client
            .post(target, &request(false, DryRun { dry_run: true }))
            .await?;
        if preview.needs_yes {
            confirm::ask(&preview, word)?;
            yes = true;
        }
    }
    plain(context, label, target, &request(yes, dry)).await
}

/// Sends a request that makes something whose path is what scripts want: on the standard output, alone.
pub(super) async fn with_path<R: Serialize>(
    context: &Context,
    label: &str,
    target: &str,
    request: &R,
    path: impl FnOnce(&Changed) -> Option<String>,
) -> Result<Exit, ToolError> {
    let reply = send(context, label, target, request).await?;
    let exit = show(context, &reply)?;
    if context.output.format == Format::Table
        && let Some(path) = path(&reply)
    {
        write_stdout(&format!("{path}\n"))?;
    }
    Ok(exit)
}

async fn send<R: Serialize>(
    context: &Context,
    label: &str,
    target: &str,
    request: &R,
) -> Result<Changed, ToolError> {
    spinning(label, context.client.post(target, request)).await
}

fn show(context: &Context, reply: &Changed) -> Result<Exit, ToolError> {
    match context.output.format {
        // What was done is talk; there is no data beside it.
        Format::Table => {
            for line in confirm::lines(reply) {
                say(line);
            }
            if reply.dry_run && reply.needs_yes {
                say("it would want --yes, or a confirmation on a terminal");
            }
        }
        _ => context.output.show(reply, views::changed)?,
    }
    Ok(Exit::Done)
}
