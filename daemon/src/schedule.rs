//! When scrubs run: windows of the week, and what is due.
//!
//! Everything here is a function of values: the week's minute comes from outside.
//!
//! Invariants
//! - A scrub that the operator started or resumed isn't held by a window; nor is one that he paused
//!   or stopped resumed by one.
//! - Without windows nothing starts by itself.

use std::time::Duration;

use cairn_raid::defects::{ScrubRecord, ScrubState};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u32 = 24 * 60;

/// Hours of some days of the week. An end at or before the beginning is one of the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bit n: day n from Monday.
    days: u8,
    from_minute: u32,
    to_minute: u32,
}

/// A moment of the week, local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// From Monday = 0.
    pub day: u32,
    /// Minute of the day.
    pub minute: u32,
}

impl Moment {
    /// Now, where the host is.
    pub fn now() -> Self {
        let now = jiff::Zoned::now();
        let number = |value: i8| u32::try_from(value).unwrap_or(0);
        Self {
            day: number(now.weekday().to_monday_zero_offset()),
            minute: number(now.hour()) * 60 + number(now.minute()),
        }
    }
}

impl Window {
    /// Reads `Sat 02:00-06:00`, `Mon-Fri 22:00-04:00` or `01:00-05:00`, which is every day.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = || {
            format!(
                "window {text:?}: write it as \"Sat 02:00-06:00\", \"Mon-Fri 22:00-04:00\" or \"01:00-05:00\""
            )
        };
        let mut words = text.split_whitespace();
        let (days, hours) = match (words.next(), words.next(), words.next()) {
            (Some(hours), None, None) => (0x7F, hours),
            (Some(days), Some(hours), None) => (parse_days(days)?, hours),
            _ => return Err(shape()),
        };
        let (from, to) = hours.split_once('-').ok_or_else(shape)?;
        let from_minute = parse_time(from).ok_or_else(shape)?;
        let to_minute = parse_time(to).ok_or_else(shape)?;
        if from_minute == DAY_MINUTES {
            return Err(shape());
        }
        if from_minute == to_minute {
            return Err(format!("window {text:?} is empty: it ends when it begins"));
        }
        Ok(Self {
            days,
            from_minute,
            to_minute,
        })
    }

    /// Whether a moment lies in it.
    pub fn contains(&self, at: Moment) -> bool {
        let on = |day: u32| self.days >> (day % 7) & 1 == 1;
        if self.from_minute < self.to_minute {
            return on(at.day) && (self.from_minute..self.to_minute).contains(&at.minute);
        }
        let began_today = on(at.day) && at.minute >= self.from_minute;
        let began_yesterday = on(at.day + 6) && at.minute < self.to_minute;
        began_today || began_yesterday
    }
}

fn parse_day(text: &str) -> Result<usize, String> {
    let known = DAYS.iter().position(|day| day.eq_ignore_ascii_case(text));
    known.ok_or_else(|| format!("{text:?} is no day of the week: use {}", DAYS.join(", ")))
}

fn parse_days(text: &str) -> Result<u8, String> {
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (parse_day(first)?, parse_day(last)?),
            None => (parse_day(part)?, parse_day(part)?),
        };
        let count = (last + 7 - first) % 7 + 1;
        for day in (first..first + count).map(|day| day % 7) {
            days |= 1 << day;
        }
    }
    Ok(days)
}

/// Minutes of the day; 24:00 is its end.
fn parse_time(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    if minutes.len() != 2 || hours.is_empty() || hours.len() > 2 {
        return None;
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

/// What to do with an array's scrub now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Begin one.
    Start,
    /// Hold it until the next window.
    Hold,
    /// Go on.
    Resume,
}

/// What a decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What is kept of the scrub.
    pub scrub: ScrubRecord,
    /// The operator started it, or resumed it.
    pub by_operator: bool,
    /// All members are in sync. Of an array without one a scrub gives up what nobody else can vouch for: by request only.
    pub is_whole: bool,
    /// When the array was created, in ms since 1970.
    pub created_ms: u64,
    /// Now, in ms since 1970.
    pub now_ms: u64,
    /// Now, in the week.
    pub moment: Moment,
    /// The windows.
    pub windows: &'a [Window],
    /// From one completion to the next start.
    pub interval: Duration,
}

/// What is to be done, if anything.
pub fn decide(situation: &Situation<'_>) -> Option<Step> {
    let scrub = &situation.scrub;
    let mut windows = situation.windows.iter();
    let open = windows.any(|window| window.contains(situation.moment));
    match scrub.state {
        ScrubState::Running if situation.by_operator => None,
        ScrubState::Running => {
            let is_over = !open && !situation.windows.is_empty();
            (is_over || !situation.is_whole).then_some(Step::Hold)
        }
        ScrubState::Waiting => {
            let may = open || situation.windows.is_empty();
            (may && situation.is_whole).then_some(Step::Resume)
        }
        ScrubState::Paused => None,
        ScrubState::Idle | ScrubState::Stopped => {
            // One that the operator stopped counts as a start: it isn't begun anew in the same night.
            let last_ms = scrub
                .finished_ms
                .max(scrub.started_ms)
                .max(situation.created_ms);
            let interval_ms = u64::try_from(situation.interval.as_millis()).unwrap_or(u64::MAX);
            // A time to come was taken from a wrong clock: it says nothing.
            let since_ms = situation.now_ms.checked_sub(last_ms);
            let due = since_ms.is_none_or(|since| since >= interval_ms);
            (open && due && situation.is_whole).then_some(Step::Start)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u32, hour: u32, minute: u32) -> Moment {
        Moment {
            day,
            minute: hour * 60 + minute,
        }
    }

    #[test]
    fn a_window_holds_its_hours_and_no_others() {
        let window = Window::parse("Sat 02:00-06:00").unwrap();
        assert!(window.contains(at(5, 2, 0)) && window.contains(at(5, 5, 59)));
        assert!(!window.contains(at(5, 6, 0)) && !window.contains(at(5, 1, 59)));
        assert!(!window.contains(at(6, 3, 0)));
        let daily = Window::parse("01:00-24:00").unwrap();
        assert!((0..7).all(|day| daily.contains(at(day, 23, 59))));
    }

    #[test]
    fn a_window_may_cross_midnight_and_the_end_of_the_week() {
        let window = Window::parse("sun 22:00-04:00").unwrap();
        assert!(window.contains(at(6, 23, 0)) && window.contains(at(0, 3, 59)));
        assert!(!window.contains(at(6, 3, 0)) && !window.contains(at(0, 4, 0)));
        let week = Window::parse("Fri-Mon,Wed 23:00-01:00").unwrap();
        for day in [4, 5, 6, 0, 2] {
            assert!(week.contains(at(day, 23, 30)) && week.contains(at((day + 1) % 7, 0, 30)));
        }
        assert!(!week.contains(at(1, 23, 30)) && !week.contains(at(3, 23, 30)));
    }

    #[test]
    fn what_is_no_window_is_refused_with_an_example() {
        for text in [
            "",
            "Sat",
            "Sat 2-6",
            "Sat 02:00",
            "02:00-25:00",
            "02:60-03:00",
            "Sat 24:00-02:00",
            "Sat 02:00-06:00 x",
            "Sat +2:00-06:00",
            "Sat 002:00-06:00",
        ] {
            let message = Window::parse(text).unwrap_err();
            assert!(message.contains("Sat 02:00-06:00"), "{text}: {message}");
        }
        let message = Window::parse("Saturday 02:00-06:00").unwrap_err();
        assert!(message.contains("use Mon, Tue"), "{message}");
        let message = Window::parse("Sat 02:00-02:00").unwrap_err();
        assert!(message.contains("empty"), "{message}");
    }

    const DAY_MS: u64 = 86_400_000;

    fn step(state: ScrubState, by_operator: bool, days: u64, open: bool) -> Option<Step> {
        step_of(true, state, by_operator, days, open)
    }

    fn step_of(
        is_whole: bool,
        state: ScrubState,
        by_operator: bool,
        days: u64,
        open: bool,
    ) -> Option<Step> {
        let windows = [Window::parse("Sat 02:00-06:00").unwrap()];
        decide(&Situation {
            scrub: ScrubRecord {
                state,
                finished_ms: 100 * DAY_MS,
                ..ScrubRecord::default()
            },
            by_operator,
            is_whole,
            created_ms: 50 * DAY_MS,
            now_ms: (100 + days) * DAY_MS,
            moment: if open { at(5, 3, 0) } else { at(5, 7, 0) },
            windows: &windows,
            interval: Duration::from_hours(30 * 24),
        })
    }

    #[test]
    fn an_array_that_lacks_a_member_is_scrubbed_by_request_only() {
        use ScrubState::{Idle, Running, Waiting};
        assert_eq!(step_of(false, Idle, false, 30, true), None);
        assert_eq!(step_of(false, Running, false, 1, true), Some(Step::Hold));
        assert_eq!(step_of(false, Waiting, false, 1, true), None);
        assert_eq!(step_of(false, Running, true, 1, true), None);
    }

    #[test]
    fn h3_a_clock_that_was_ahead_silences_no_scrub() {
        let windows = [Window::parse("Sat 02:00-06:00").unwrap()];
        let ahead = decide(&Situation {
            scrub: ScrubRecord {
                finished_ms: 1000 * DAY_MS,
                ..ScrubRecord::default()
            },
            by_operator: false,
            is_whole: true,
            created_ms: 50 * DAY_MS,
            now_ms: 100 * DAY_MS,
            moment: at(5, 3, 0),
            windows: &windows,
            interval: Duration::from_hours(30 * 24),
        });
        assert_eq!(ahead, Some(Step::Start));
    }

    #[test]
    fn scrubs_begin_in_a_window_when_they_are_due() {
        use ScrubState::{Idle, Stopped};
        assert_eq!(step(Idle, false, 30, true), Some(Step::Start));
        assert_eq!(step(Stopped, true, 30, true), Some(Step::Start));
        assert_eq!(step(Idle, false, 29, true), None);
        assert_eq!(step(Idle, false, 300, false), None);
    }

    #[test]
    fn a_window_holds_only_what_it_started_and_resumes_only_what_it_held() {
        use ScrubState::{Paused, Running, Waiting};
        assert_eq!(step(Running, false, 1, false), Some(Step::Hold));
        assert_eq!(step(Running, false, 1, true), None);
        assert_eq!(step(Running, true, 1, false), None);
        assert_eq!(step(Waiting, false, 1, true), Some(Step::Resume));
        assert_eq!(step(Waiting, false, 1, false), None);
        assert_eq!(step(Paused, false, 1, true), None);
    }

    #[test]
    fn without_windows_nothing_starts_and_nothing_waits() {
        let at_rest = |state| {
            decide(&Situation {
                scrub: ScrubRecord {
                    state,
                    ..ScrubRecord::default()
                },
                by_operator: false,
                is_whole: true,
                created_ms: 0,
                now_ms: 900 * DAY_MS,
                moment: at(0, 0, 0),
                windows: &[],
                interval: Duration::from_hours(24),
            })
        };
        assert_eq!(at_rest(ScrubState::Idle), None);
        assert_eq!(at_rest(ScrubState::Running), None);
        assert_eq!(at_rest(ScrubState::Waiting), Some(Step::Resume));
    }
}
