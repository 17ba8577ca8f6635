//! Progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::say;
use crate::quantity::{percent, show_seconds, show_size};

/// Without a terminal: a line when so many more percent are done …
const LINE_PERCENT_STEP: u64 = 20;
/// … or nothing was said for so long.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// One long job as a person sees it. Disappears when dropped.
pub(crate) struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    said_percent: Option<u64>,
    said_at: Instant,
    started: Instant,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Position {
    /// Bytes done.
    pub(crate) done: u64,
    /// Bytes in all.
    pub(crate) total: u64,
    /// Bytes per second, where somebody measured it; else the mean so far is shown.
    pub(crate) speed: Option<u64>,
    /// Seconds to the end, where somebody knows.
    pub(crate) eta_seconds: Option<u64>,
}

impl Progress {
    /// A bar for bytes.
    pub(crate) fn bytes(label: impl Into<String>) -> Self {
        let template = "{msg} {bar:30.green} {prefix}";
        Self::with_template(label.into(), template, 0)
    }

    /// A spinner for a job of unknown length.
    pub(crate) fn spinner(label: impl Into<String>) -> Self {
        let this = Self::with_template(label.into(), "{spinner} {msg} {elapsed}", 0);
        if let Some(bar) = &this.bar {
            bar.enable_steady_tick(TICK);
        }
        this
    }

    fn with_template(label: String, template: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar.set_message(label.clone());
            bar
        });
        let now = Instant::now();
        Self {
            label,
            bar,
            said_percent: None,
            said_at: now,
            started: now,
        }
    }

    /// Shows where the job stands.
    pub(crate) fn update(&mut self, at: Position) {
        let mean = self.mean_speed(at.done);
        let detail = detail(at, mean);
        if let Some(bar) = &self.bar {
            bar.set_length(at.total);
            bar.set_position(at.done.min(at.total));
            bar.set_prefix(detail);
            bar.tick();
            return;
        }
        let percent = percent(at.done, at.total);
        let step = percent / LINE_PERCENT_STEP;
        let due = self
            .said_percent
            .is_none_or(|said| step != said / LINE_PERCENT_STEP);
        if due || self.said_at.elapsed() >= LINE_INTERVAL {
            say(format!("{} {detail}", self.label));
            self.said_percent = Some(percent);
            self.said_at = Instant::now();
        }
    }

    /// Says something without disturbing the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    fn mean_speed(&self, done: u64) -> u64 {
        let ms = self.started.elapsed().as_millis().max(1);
        u64::try_from(u128::from(done) * 1000 / ms).unwrap_or(u64::MAX)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn detail(at: Position, mean_speed: u64) -> String {
    let mut text = format!(
        "{:>3} %  {} of {}",
        percent(at.done, at.total),
        show_size(at.done),
        show_size(at.total)
    );
    let speed = at.speed.unwrap_or(mean_speed);
    if speed > 0 {
        let _ = write!(text, "  {}/s", show_size(speed));
    }
    if let Some(eta) = at.eta_seconds {
        let _ = write!(text, "  {} left", show_seconds(eta));
    }
    text
}

/// Runs `job` under a spinner.
pub(crate) async fn spinning<T>(label: impl Into<String>, job: impl Future<Output = T>) -> T {
    let spinner = Progress::spinner(label);
    let result = job.await;
    drop(spinner);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_has_percent_bytes_speed_and_time_left() {
        let at = Position {
            done: 512 << 20,
            total: 2 << 30,
            speed: Some(300 << 20),
            eta_seconds: Some(5),
        };
        assert_eq!(
            detail(at, 1),
            " 25 %  512 MiB of 2 GiB  300 MiB/s  5 s left"
        );
        let at = Position {
            speed: None,
            eta_seconds: None,
            ..at
        };
        assert_eq!(detail(at, 0), " 25 %  512 MiB of 2 GiB");
    }
}
