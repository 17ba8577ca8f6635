//! The rows of `bench array`'s table: the load of each, what it is held against, and its targets.

use std::time::Duration;

use super::load::{Load, Order, Until};
use cairn_blockdev::units::u64_of;

/// What a case is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Requests per second.
    Iops,
    /// MiB per second.
    Mib,
}

/// What the raw disks' figure is multiplied with to be the limit of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// There is none.
    None,
    /// Whatever the disks give.
    Raw,
    /// The disks' operations of a read-modify-write.
    Rmw,
    /// The share of data among what is written.
    Data,
    /// The same array's sequential read with all members.
    Healthy,
}

/// How the load is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As it is.
    Plain,
    /// On rows that were never written, until everything is in its place.
    Fresh,
    /// With one member out.
    Degraded,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// What it is counted in.
    pub unit: Unit,
    /// How the load is run.
    pub way: Way,
    /// The load.
    pub load: Load,
    /// At least so much of what the array does with both off.
    pub target_off: Option<f64>,
    /// What else it is held against.
    pub limit: Limit,
    /// At least so much of that.
    pub target_limit: Option<f64>,
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The volume.
    pub working_set: u64,
    /// Data of a row.
    pub row_bytes: u64,
    /// What is written in a burst, smaller first.
    pub bursts: [u64; 2],
    /// Time of a load.
    pub time: Duration,
    /// Rows that are written for the first time.
    pub fresh_rows: u64,
}

const BLOCK: usize = 4 << 10;
const MEBIBYTE: usize = 1 << 20;
/// Where a stream that isn't row-aligned begins.
const OFF_ROW: u64 = 20 << 10;

/// All rows.
pub fn all(sizes: &Sizes) -> Vec<Case> {
    let load = |is_write, bytes, depth, order, warm_ops| Load {
        is_write,
        bytes,
        depth,
        order,
        warm_ops,
        until: Until::Time(sizes.time),
        span_bytes: sizes.working_set,
        row_bytes: sizes.row_bytes,
        seed: 0,
    };
    let ops = |load, count| Load {
        until: Until::Ops(count),
        ..load
    };
    let case = |name: &str, unit, load, target_off, limit, target_limit| Case {
        name: name.into(),
        unit,
        way: Way::Plain,
        load,
        target_off,
        limit,
        target_limit,
    };
    let rows = sizes.working_set / sizes.row_bytes;
    let (write, read) = (true, false);
    let mut cases: Vec<Case> = sizes
        .bursts
        .into_iter()
        .map(|bytes| {
            let burst = load(write, BLOCK, 32, Order::Random, 0);
            let burst = ops(burst, bytes / u64_of(BLOCK));
            let name = format!("4k random write QD32, burst of {} MiB", bytes >> 20);
            case(&name, Unit::Iops, burst, Some(1.0), Limit::Rmw, Some(1.0))
        })
        .collect();
    let gathered = load(write, MEBIBYTE, 8, Order::Sequential(OFF_ROW), 64);
    cases.extend([
        case(
            "4k random write QD32, sustained, row by row",
            Unit::Iops,
            // Once around, so that the journal is as full as it gets.
            load(write, BLOCK, 32, Order::RowByRow, rows),
            Some(0.5),
            Limit::Rmw,
            Some(0.5),
        ),
        case(
            "sequential write 1M QD8, row-aligned",
            Unit::Mib,
            load(write, MEBIBYTE, 8, Order::Sequential(0), 64),
            Some(0.8),
            Limit::Data,
            Some(0.5),
        ),
        case(
            "sequential write 1M QD8, not row-aligned, gathered",
            Unit::Mib,
            gathered,
            Some(0.8),
            Limit::Data,
            Some(0.5),
        ),
        case(
            "4k random read QD32",
            Unit::Iops,
            load(read, BLOCK, 32, Order::Random, 1000),
            Some(0.85),
            Limit::Raw,
            Some(0.7),
        ),
        case(
            "4k random read QD1",
            Unit::Iops,
            load(read, BLOCK, 1, Order::Random, 100),
            Some(0.85),
            Limit::Raw,
            None,
        ),
        case(
            "sequential read 1M QD8",
            Unit::Mib,
            load(read, MEBIBYTE, 8, Order::Sequential(0), 64),
            Some(0.85),
            Limit::Raw,
            Some(0.6),
        ),
        Case {
            way: Way::Fresh,
            ..case(
                "4k write QD32, first touch of a row, until in place",
                Unit::Iops,
                Load {
                    span_bytes: sizes.fresh_rows * sizes.row_bytes,
                    ..ops(load(write, BLOCK, 32, Order::RowByRow, 0), sizes.fresh_rows)
                },
                None,
                Limit::None,
                None,
            )
        },
        Case {
            way: Way::Degraded,
            ..case(
                "sequential read 1M QD8, one member out",
                Unit::Mib,
                load(read, MEBIBYTE, 8, Order::Sequential(0), 64),
                Some(0.85),
                Limit::Healthy,
                Some(0.6),
            )
        },
    ]);
    cases
}
