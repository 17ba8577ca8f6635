//! `storm`: the simulator's command line. See `hwtests/README.md`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cairn_hwtests::storm::exhaustive::{Subject, cut_at, cut_everywhere};
use cairn_hwtests::storm::history::{history, shape_of, undisturbed};
use cairn_hwtests::storm::{Told, aimed, hunt, matrix};
use clap::Parser;

/// Operations that tell how fast it goes.
const SPEED_OPS: u64 = 100_000;

/// The array engine on simulated disks: random histories, faults and power cuts from one seed.
#[derive(Parser)]
#[command(name = "storm", version)]
struct Args {
    /// Tell the history of this seed.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Client operations of that history.
    #[arg(long, value_name = "COUNT", default_value_t = hunt::OPS)]
    ops: u64,
    /// Clients on six members and nothing else: how fast it goes.
    #[arg(long)]
    speed: bool,
    /// Hunt with random seeds for so long.
    #[arg(long, value_name = "S", conflicts_with = "seed")]
    seconds: Option<u64>,
    /// Threads.
    #[arg(long, value_name = "J", default_value_t = 1)]
    jobs: usize,
    /// Seed that a hunt or the matrix begins with, instead of a random one (a hunt) or 1.
    #[arg(long, value_name = "N")]
    first_seed: Option<u64>,
    /// Every fault in every state of the array.
    #[arg(long)]
    matrix: bool,
    /// Seeds for each cell of the matrix.
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    seeds: u64,
    /// Only faults with this in their name.
    #[arg(long, value_name = "TEXT")]
    fault: Option<String>,
    /// Only states with this in their name.
    #[arg(long, value_name = "TEXT")]
    state: Option<String>,
    /// Short histories, cut off at every I/O.
    #[arg(long)]
    exhaustive: bool,
    /// Only those with disks for the journal.
    #[arg(long, requires = "exhaustive")]
    journal_disks: bool,
    /// Only this cut of each of them.
    #[arg(long, value_name = "N", requires = "exhaustive")]
    cut: Option<u64>,
    /// Turns that aim at one schedule each, so many seeds of each on each level.
    #[arg(long)]
    aimed: bool,
    /// Only turns, or planted bugs, with this in their name.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Whether planted bugs are found (built with `--features mutations`).
    #[arg(long)]
    mutations: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let fine = if args.matrix {
        run_matrix(&args)
    } else if args.mutations {
        run_mutations(&args)
    } else if args.aimed {
        run_aimed(&args)
    } else if args.speed {
        tell_of(&undisturbed(1, SPEED_OPS), "storm --speed")
    } else if args.exhaustive {
        run_exhaustive(&args)
    } else if let Some(seed) = args.seed {
        run_seed(seed, args.ops)
    } else {
        run_hunt(&args)
    };
    if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_seed(seed: u64, ops: u64) -> bool {
    println!("seed {seed}: {:?}", shape_of(seed));
    let again = format!("storm --seed {seed} --ops {ops}");
    tell_of(&history(seed, ops), &again)
}

fn tell_of(told: &Told, again: &str) -> bool {
    println!("{}", told.totals);
    println!("hash {:016x}", told.hash);
    if let Some(finding) = &told.finding {
        println!("FOUND {finding}");
        println!("again: {again}");
    }
    told.finding.is_none()
}

/// A seed that nobody has thought of.
fn random_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(1, |now| now.as_nanos());
    u64::try_from(nanos % 1_000_000_007).unwrap_or(1) * 1000
}

fn run_hunt(args: &Args) -> bool {
    let first = args.first_seed.unwrap_or_else(random_seed);
    let seconds = args.seconds.unwrap_or(10);
    println!("hunting for {seconds} s from seed {first} on");
    let caught = hunt::hunt(first, Duration::from_secs(seconds), args.jobs);
    println!("{}", caught.totals);
    match caught.finding {
        None => true,
        Some((seed, finding)) => {
            println!("FOUND {finding}");
            println!("again: storm --seed {seed} --ops {}", hunt::OPS);
            false
        }
    }
}

fn run_matrix(args: &Args) -> bool {
    let first_seed = args.first_seed.unwrap_or(1);
    let outcome = matrix::run(&matrix::Choice {
        seeds: args.seeds,
        jobs: args.jobs,
        fault: args.fault.clone(),
        state: args.state.clone(),
        first_seed,
    });
    println!("{}\n\n{}", outcome.table, outcome.totals);
    let census = matrix::census();
    let census: Vec<String> = census.iter().map(|(w, n)| format!("{w} {n}")).collect();
    println!("cells: {}", census.join(", "));
    for failure in &outcome.failures {
        println!("FAILED {failure}");
    }
    outcome.failures.is_empty()
}

fn run_aimed(args: &Args) -> bool {
    let outcome = aimed::run(&aimed::Choice {
        first_seed: args.seed.or(args.first_seed).unwrap_or(1),
        seeds: if args.seed.is_some() { 1 } else { args.seeds },
        jobs: args.jobs,
        only: args.only.clone(),
    });
    println!("{}", outcome.totals);
    for failure in &outcome.failures {
        println!("FOUND {failure}");
    }
    outcome.failures.is_empty()
}

fn run_exhaustive(args: &Args) -> bool {
    let mut fine = true;
    let subjects = Subject::all(args.seed.unwrap_or(1)).into_iter();
    for subject in subjects.filter(|subject| subject.journal_disks || !args.journal_disks) {
        if let Some(at) = args.cut {
            let (told, was_cut) = cut_at(subject, at);
            println!(
                "{subject:?}: {}",
                if was_cut { "cut" } else { "ended before" }
            );
            if let Some(finding) = told.finding {
                println!("FOUND at cut {at}: {finding}");
                fine = false;
            }
            continue;
        }
        let outcome = cut_everywhere(subject, args.jobs);
        println!("{subject:?}: {} cuts", outcome.cuts);
        if let Some((at, finding)) = outcome.finding {
            println!("FOUND at cut {at}: {finding}");
            println!(
                "again: storm --exhaustive --cut {at} --seed {}",
                subject.seed
            );
            fine = false;
        }
    }
    fine
}

#[cfg(feature = "mutations")]
fn run_mutations(args: &Args) -> bool {
    cairn_hwtests::storm::mutations::run(args.jobs, args.only.as_deref())
}

#[cfg(not(feature = "mutations"))]
fn run_mutations(_: &Args) -> bool {
    println!(
        "no bugs are planted in this build: cargo run --release -p cairn-hwtests --features \
         mutations --bin storm -- --mutations"
    );
    false
}
