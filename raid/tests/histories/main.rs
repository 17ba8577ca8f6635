//! Histories of arrays on simulated disks: concurrent clients, failing members, crashes at every
//! point, and a model that knows what each sector may hold.
//!
//! Every history is a function of its seed, which is printed.

#[cfg(test)]
mod assembly;
#[cfg(test)]
mod beyond;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod columns;
#[cfg(test)]
mod concurrent;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod half_said;
#[cfg(test)]
mod healed;
#[cfg(test)]
mod hung;
#[cfg(test)]
mod journal_disks;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod late;
#[cfg(test)]
mod latent;
#[cfg(test)]
mod members;
#[cfg(test)]
mod model;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod put_back;
#[cfg(test)]
mod races;
#[cfg(test)]
mod read_errors;
#[cfg(test)]
mod refilled;
#[cfg(test)]
mod region;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod resettled;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod returns;
#[cfg(test)]
mod scrub;
#[cfg(test)]
mod split;
#[cfg(test)]
mod starved;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod story;
#[cfg(test)]
mod successors;
#[cfg(test)]
mod unsaved;
#[cfg(test)]
mod world;
