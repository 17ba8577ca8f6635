//! The stripe engine from outside, on simulated disks that count.

#[cfg(test)]
mod io;
