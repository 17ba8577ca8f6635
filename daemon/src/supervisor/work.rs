//! What the host's arrays have done: asked of each once a second, written to the statistics page, kept for `/metrics`.
//!
//! Invariants
//! - An array whose thread doesn't answer stays in the page as it was last, with the time of that; it keeps nobody else waiting.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cairn_api::page::path_of;
use cairn_api::{ArrayWork, Work};

use super::entry::Entry;
use super::{Supervisor, locked};
use crate::page::Page;
use crate::work::{Moment, array, thread_cpu_time};

const EVERY: Duration = Duration::from_secs(1);
/// An engine answers between two I/Os.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);

impl Entry {
    /// What it has done; `None`: it doesn't run, or its thread doesn't answer.
    async fn work(&self) -> Option<ArrayWork> {
        let engine = self.engine()?;
        let answer = engine.call(|engine| async move {
            let running = engine.array.borrow().clone()?;
            let moment = Moment {
                unix_ms: engine.env.clock.unix_ms(),
                running: engine.env.clock.now(),
                cpu: thread_cpu_time(),
            };
            Some(array(&running.status(), running.work(), moment))
        });
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(work)) => work,
            _ => None,
        }
    }
}

impl Supervisor {
    /// Writes the page until the daemon ends.
    pub async fn keep_work(self: Arc<Self>) {
        let path = path_of(&self.config().socket);
        let mut page = make(&path);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let work = Arc::new(self.take_work().await);
            *locked(&self.work) = Arc::clone(&work);
            // A page of at most 1 MiB, in memory as a rule.
            if let Some(Err(error)) = page.as_mut().map(|page| page.write(&work)) {
                tracing::warn!(page = %path.display(), %error, "the statistics page is written no more");
                page = None;
            }
        }
    }

    /// What was done, as it was written last.
    pub fn work(&self) -> Arc<Work> {
        Arc::clone(&locked(&self.work))
    }

    async fn take_work(&self) -> Work {
        let before = self.work();
        let mut asked = tokio::task::JoinSet::new();
        for entry in self.entries() {
            asked.spawn(async move {
                let work = entry.work().await;
                (entry, work)
            });
        }
        let mut arrays = Vec::new();
        while let Some(answer) = asked.join_next().await {
            let Ok((entry, work)) = answer else { continue };
            let uuid = entry.uuid().to_string();
            let last = || {
                before
                    .arrays
                    .iter()
                    .find(|array| array.uuid == uuid)
                    .cloned()
            };
            // One that has stopped isn't there any more.
            let work = work.or_else(|| last().filter(|_| entry.engine().is_some()));
            arrays.extend(work);
        }
        arrays.sort_by(|a, b| a.name.cmp(&b.name));
        let now = jiff::Timestamp::now().as_millisecond();
        Work {
            taken_unix_ms: u64::try_from(now).unwrap_or(0),
            pid: std::process::id(),
            arrays,
            idle_volumes_left_out: false,
        }
    }
}

fn make(path: &Path) -> Option<Page> {
    Page::create(path.to_path_buf())
        .inspect_err(|error| {
            tracing::warn!(page = %path.display(), %error, "no statistics page, and so no `cairn top`");
        })
        .ok()
}
