//! `cairn status`, `check`, `df` and `version`.

use cairn_api::{Df, Exit, Health, HealthLevel, Status, Version, routes};

use super::Context;
use crate::cli::Format;
use crate::error::ToolError;
use crate::output::write_stdout;
use crate::views;

/// The screen; for programs the whole value.
pub(crate) async fn show_status(context: &Context) -> Result<Exit, ToolError> {
    let status: Status = context.client.get(routes::STATUS).await?;
    match context.output.format {
        Format::Table => write_stdout(&views::screen(&status, context.output.painter))?,
        _ => context.output.show(&status, views::status_facts)?,
    }
    Ok(Exit::Done)
}

/// The verdict, and the exit code that goes with it.
pub(super) async fn check(context: &Context) -> Result<Exit, ToolError> {
    let health: Health = context.client.get(routes::HEALTH).await?;
    context.output.show(&health, views::health)?;
    Ok(exit_of(health.level))
}

fn exit_of(level: HealthLevel) -> Exit {
    match level {
        HealthLevel::Ok => Exit::Done,
        HealthLevel::Warn => Exit::Failed,
        HealthLevel::Err => Exit::ArrayFailed,
    }
}

/// Free space.
pub(crate) async fn show_df(context: &Context) -> Result<Exit, ToolError> {
    let df: Df = context.client.get(routes::DF).await?;
    context.output.show(&df, views::df)?;
    Ok(Exit::Done)
}

/// Versions of both sides.
pub(super) async fn version(context: &Context) -> Result<Exit, ToolError> {
    let version: Version = context.client.get(routes::VERSION).await?;
    context.output.show(&version, views::version)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_exits_0_1_2_by_the_verdict() {
        assert_eq!(exit_of(HealthLevel::Ok).code(), 0);
        assert_eq!(exit_of(HealthLevel::Warn).code(), 1);
        assert_eq!(exit_of(HealthLevel::Err).code(), 2);
    }
}
