//! How fast a scrub goes: as fast as clients don't feel it.
//!
//! While clients are active, work takes turns with pauses. What clients' requests take while the scrub
//! works is compared with what they take while it pauses: if they notice, the pauses double; if they
//! don't, the pauses shrink. A scrub always gets on: a pause has a longest length.
//!
//! Does not know: clocks, disks, rows.

use std::time::Duration;

/// The longest pause between two pieces that clients' latency can cause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The shortest pause while clients are active.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Requests may take this much longer, in percent, before clients count as disturbed.
const NOTICED_PERCENT: u32 = 50;
/// And at least this much longer: below it lies the scatter of any disk.
const NOTICED_MIN: Duration = Duration::from_micros(200);
/// An average moves by one part in this many towards each new sample.
const WEIGHT: u32 = 8;

/// Requests that ended in a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// How many.
    pub(crate) count: u32,
    /// What they took together.
    pub(crate) time: Duration,
}

impl Requests {
    /// One more.
    pub(crate) fn add(&mut self, took: Duration) {
        self.count = self.count.saturating_add(1);
        self.time = self.time.saturating_add(took);
    }

    fn mean(self) -> Option<Duration> {
        self.time.checked_div(self.count)
    }
}

/// One turn of work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// Whether clients were active.
    pub(crate) clients: bool,
    /// Clients' requests that ended in the pause before it.
    pub(crate) before: Requests,
    /// Clients' requests that ended while it ran.
    pub(crate) during: Requests,
    /// What it took.
    pub(crate) took: Duration,
    /// Bytes that it read from the members.
    pub(crate) bytes: u64,
}

/// Decides how long to pause.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    pause: Duration,
    /// What a request takes while the scrub pauses.
    quiet: Option<Duration>,
}

impl Pace {
    /// The pause after a turn. `bytes_per_second_max`: a bound set by the operator.
    pub(crate) fn after(&mut self, turn: &Turn, bytes_per_second_max: Option<u64>) -> Duration {
        if let Some(mean) = turn.before.mean() {
            self.quiet = Some(match self.quiet {
                Some(known) => (known * (WEIGHT - 1) + mean) / WEIGHT,
                None => mean,
            });
        }
        self.pause = if turn.clients {
            self.yielding(turn)
        } else {
            Duration::ZERO
        };
        let bound = bytes_per_second_max.and_then(|max| {
            let micros = turn.bytes.saturating_mul(1_000_000).checked_div(max)?;
            Some(Duration::from_micros(micros).saturating_sub(turn.took))
        });
        self.pause.max(bound.unwrap_or_default())
    }

    fn yielding(&self, turn: &Turn) -> Duration {
        let disturbed = match (self.quiet, turn.during.mean()) {
            (Some(quiet), Some(during)) => {
                during > (quiet + quiet * NOTICED_PERCENT / 100).max(quiet + NOTICED_MIN)
            }
            // Nothing to compare: neither faster nor slower.
            _ => return self.pause.max(turn.took).clamp(PAUSE_MIN, PAUSE_MAX),
        };
        let next = if disturbed {
            self.pause.max(turn.took) * 2
        } else {
            self.pause / 4 * 3
        };
        next.clamp(turn.took.clamp(PAUSE_MIN, PAUSE_MAX), PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Duration = Duration::from_millis(5);

    fn requests(count: u32, each_us: u64) -> Requests {
        let mut requests = Requests::default();
        (0..count).for_each(|_| requests.add(Duration::from_micros(each_us)));
        requests
    }

    fn turn(before_us: u64, during_us: u64) -> Turn {
        Turn {
            clients: true,
            before: requests(10, before_us),
            during: requests(10, during_us),
            took: WORK,
            bytes: 1 << 20,
        }
    }

    #[test]
    fn without_clients_there_is_no_pause() {
        let mut pace = Pace::default();
        let alone = Turn {
            clients: false,
            ..turn(0, 0)
        };
        assert_eq!(pace.after(&alone, None), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_while_clients_notice_and_shrink_when_they_do_not() {
        let mut pace = Pace::default();
        let mut last = Duration::ZERO;
        for _ in 0..5 {
            let pause = pace.after(&turn(500, 5_000), None);
            assert!(pause >= last * 2 || pause == PAUSE_MAX, "{pause:?}");
            last = pause;
        }
        for _ in 0..40 {
            let pause = pace.after(&turn(500, 550), None);
            assert!(pause <= last && pause >= WORK, "{pause:?}");
            last = pause;
        }
        assert_eq!(last, WORK, "at rest it works half of the time");
    }

    #[test]
    fn it_never_stands_still() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            assert!(pace.after(&turn(100, 1_000_000), None) <= PAUSE_MAX);
        }
    }

    #[test]
    fn small_scatter_is_not_taken_for_a_disturbance() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            assert_eq!(pace.after(&turn(20, 150), None), WORK);
        }
    }

    #[test]
    fn a_bound_of_the_operator_holds_without_clients_too() {
        let mut pace = Pace::default();
        let alone = Turn {
            clients: false,
            ..turn(0, 0)
        };
        let pause = pace.after(&alone, Some(1 << 20));
        assert_eq!(pause + WORK, Duration::from_secs(1));
    }
}
