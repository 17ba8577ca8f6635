//! `cairn events [-f]`: a page, or a stream by long polling.
//!
//! Ids go on rising over restarts of the daemon, so a stream that lost its daemon for a moment
//! continues without a gap.

use std::time::Duration;

use cairn_api::{Event, EventPage, Exit, events, routes};
use tokio::time::Instant;

use super::Context;
use crate::cli::{EventsArgs, Format};
use crate::error::ToolError;
use crate::output::{csv_rows, export_pairs, json_line, say, write_stdout};
use crate::views;

/// How long a stream waits for a daemon that is being restarted.
const RECONNECT_PATIENCE: Duration = Duration::from_mins(1);
/// How often it tries meanwhile.
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, args: EventsArgs) -> Result<Exit, ToolError> {
    let first = page(context, args.since, args.limit, Duration::ZERO).await?;
    if !args.follow {
        context.output.show(&first, views::events)?;
        return Ok(Exit::Done);
    }
    let mut stream = Stream::new(context);
    stream.print(&first.events)?;
    let mut after = first.last_id;
    let mut lost_at = None;
    loop {
        let wait = Duration::from_millis(events::WAIT_MS_MAX);
        match page(context, Some(after), events::LIMIT_MAX, wait).await {
            Ok(next) => {
                lost_at = None;
                stream.print(&next.events)?;
                after = next.last_id;
            }
            Err(error @ ToolError::Unreachable { .. }) => {
                let since = *lost_at.get_or_insert_with(|| {
                    say(format!("{error}; waiting for it to come back"));
                    Instant::now()
                });
                if since.elapsed() >= RECONNECT_PATIENCE {
                    return Err(error);
                }
                tokio::time::sleep(RECONNECT_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn page(
    context: &Context,
    after: Option<u64>,
    limit: u32,
    wait: Duration,
) -> Result<EventPage, ToolError> {
    let wait_ms = (!wait.is_zero()).then(|| wait.as_millis().to_string());
    let target = routes::EVENTS.with_query(&[
        ("after", after.map(|id| id.to_string())),
        ("limit", Some(limit.to_string())),
        ("wait_ms", wait_ms),
    ]);
    context.client.get_at(&target, wait).await
}

/// Events as they come, each on a line of its own.
struct Stream<'a> {
    context: &'a Context,
    header_is_out: bool,
}

impl<'a> Stream<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            header_is_out: false,
        }
    }

    fn print(&mut self, events: &[Event]) -> Result<(), ToolError> {
        let mut text = String::new();
        match self.context.output.format {
            Format::Json => {
                for event in events {
                    text.push_str(&json_line(event)?);
                }
            }
            Format::Csv => {
                if !self.header_is_out {
                    text.push_str(&views::EVENT_COLUMNS.join(","));
                    text.push('\n');
                }
                text.push_str(&csv_rows(&views::event_rows(events)));
            }
            Format::Export => {
                text.push_str(&export_pairs(
                    &views::EVENT_COLUMNS,
                    &views::event_rows(events),
                ));
            }
            // A stream has no column widths to look ahead to: words with two spaces between.
            Format::Table => {
                for row in views::event_rows(events) {
                    let words: Vec<String> = row
                        .iter()
                        .filter(|cell| !cell.raw.is_empty())
                        .map(|cell| self.context.output.painter.paint(cell.tone, &cell.shown))
                        .collect();
                    text.push_str(&words.join("  "));
                    text.push('\n');
                }
            }
        }
        self.header_is_out = true;
        write_stdout(&text)
    }
}
