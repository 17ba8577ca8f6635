//! `cargo bench -p cairn-raid`: the parity kernels and CRC-32C, with ISA-L and memcpy beside them.
//!
//! ```text
//!   shape ──▶ ground: memory ─┐
//!                             ├─▶ case: what all compute ──▶ contenders: ours, ISA-L's, memcpy
//!   kernel ───────────────────┘        criterion's samples ──▶ table: ratios, targets
//! ```
//!
//! A sample is criterion's: so many rounds of our kernel, and in the same breath as many of each
//! other contender, every other sample the other way round. So what else the machine does falls on all
//! of them, and the ratio of a sample is one of a moment. The table has the medians.
//!
//! ISA-L is loaded at run time: `hwtests/lab/isal.sh` fetches it.
//!
//! Invariants
//! - Before anything is timed, each contender's result is compared with that of our plainest kernel.
//! - A target that was missed is printed, and is no failure. A wrong result is one.
//! - `-- --test` does nothing but that comparison (CI); `-- NAME` runs some of it.

mod cases;
mod contender;
mod ground;
mod isal;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};

use crate::contender::Case;
use crate::ground::Ground;
use crate::isal::Isal;
use crate::table::Table;

/// Samples of a case; the medians are over as many.
const SAMPLES: usize = 41;
/// What our kernel runs in the samples of a case; others take their time beside it.
const OURS_FOR: Duration = Duration::from_millis(300);
/// Drawn from the samples for criterion's intervals.
const RESAMPLES: usize = 5000;
/// And before them.
const WARM_FOR: Duration = Duration::from_millis(40);

fn measure(criterion: &mut Criterion, shape: &str, case: &mut Case, table: &mut Table) {
    let mut group = criterion.benchmark_group(case.kernel);
    group
        .sample_size(SAMPLES)
        .nresamples(RESAMPLES)
        .measurement_time(OURS_FOR)
        .warm_up_time(WARM_FOR)
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Bytes(case.bytes));
    let mut rounds = Vec::new();
    group.bench_function(shape, |bencher| {
        bencher.iter_custom(|iterations| {
            let round = case.round(iterations, rounds.len() % 2 == 1);
            let ours = round.first().copied().unwrap_or_default();
            rounds.push(round);
            ours.mul_f64(contender::float(iterations))
        });
    });
    group.finish();
    // The first ones were the warm-up; where there are fewer, nothing was measured.
    if let Some(warm) = rounds.len().checked_sub(SAMPLES) {
        table.add(shape, case, rounds.split_off(warm));
    }
}

fn run() -> Result<(), String> {
    let isal = Isal::load()?;
    match &isal {
        Some(isal) => println!("peer: {}", isal.version),
        None => println!("{}", isal::MISSING),
    }
    let mut criterion = Criterion::default().configure_from_args();
    let mut table = Table::new(isal.as_ref());
    for shape in &ground::SHAPES {
        let ground = Ground::new(shape);
        for mut case in cases::all(&ground, isal.as_ref()) {
            case.compare(shape.name)?;
            measure(&mut criterion, shape.name, &mut case, &mut table);
        }
    }
    criterion.final_summary();
    println!("\n{table}");
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernels: {error}");
            ExitCode::FAILURE
        }
    }
}
