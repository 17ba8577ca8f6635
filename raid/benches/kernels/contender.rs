//! Who computes the same, how long each takes, and whether it is the same.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::ground::Results;

/// A count as a measured value. Exact as far as anything here counts.
pub(crate) fn float(value: u64) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

/// Whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What this row is about.
    Ours,
    /// ISA-L's.
    Peer,
    /// Copies as much; computes nothing.
    Limit,
}

/// One way to compute it.
pub(crate) struct Contender<'a> {
    pub(crate) side: Side,
    pub(crate) name: String,
    run: Box<dyn FnMut(&mut Results) + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(
        side: Side,
        name: impl Into<String>,
        run: impl FnMut(&mut Results) + 'a,
    ) -> Self {
        Self {
            side,
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// Something that is computed. Its first contender is ours.
pub(crate) struct Case<'a> {
    /// What.
    pub(crate) kernel: &'static str,
    /// Bytes that each takes in.
    pub(crate) bytes: u64,
    /// At least so much of what the faster of the peer's does.
    pub(crate) target: Option<f64>,
    pub(crate) contenders: Vec<Contender<'a>>,
    /// What the results are before.
    pub(crate) before: Box<dyn Fn(&mut Results) + 'a>,
    /// What they must be afterwards: the plainest way.
    pub(crate) plain: Contender<'a>,
    pub(crate) results: Results,
}

impl Case<'_> {
    /// Runs each once; `Err` if one gives something else than the plain one.
    pub(crate) fn compare(&mut self, shape: &str) -> Result<(), String> {
        (self.before)(&mut self.results);
        (self.plain.run)(&mut self.results);
        let (a, b) = (self.results.a.to_vec(), self.results.b.to_vec());
        let word = self.results.word;
        for contender in &mut self.contenders {
            (self.before)(&mut self.results);
            (contender.run)(&mut self.results);
            let is_same = self.results.a[..] == a && self.results.b[..] == b;
            if contender.side != Side::Limit && !(is_same && self.results.word == word) {
                let (kernel, name) = (self.kernel, &contender.name);
                return Err(format!("{kernel}, {shape}: {name} computes something else"));
            }
        }
        // What is verified has to be there; others write over it.
        (self.before)(&mut self.results);
        Ok(())
    }

    /// Each contender's time of one run, over so many of them.
    pub(crate) fn round(&mut self, iterations: u64, is_turned: bool) -> Vec<Duration> {
        let mut times = vec![Duration::ZERO; self.contenders.len()];
        let mut turns: Vec<_> = self.contenders.iter_mut().zip(&mut times).collect();
        if is_turned {
            turns.reverse();
        }
        for (contender, time) in turns {
            // Its own working set comes to the cache.
            (contender.run)(&mut self.results);
            let began = now();
            for _ in 0..iterations {
                (contender.run)(black_box(&mut self.results));
            }
            let runs = float(iterations.max(1));
            *time = began.elapsed().div_f64(runs);
        }
        times
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench is what reads the clock")]
fn now() -> Instant {
    Instant::now()
}
