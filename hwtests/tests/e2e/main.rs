//! The product from outside: real daemons, real disks (files and loops), real clients.
//!
//! Wants root and the programs that `sh hwtests/test.sh` installs; without them tests fail and say
//! what is missing. hwtests/README.md says which promise each test holds to.
#![cfg(test)]

mod activation;
mod beyond;
mod block;
mod clients;
mod disk_refusals;
mod failures;
mod integrity;
mod io_errors;
mod jobs;
mod journal_disks;
mod kills;
mod labels;
mod locate;
mod memory;
mod newer;
mod postgres;
mod refusals;
mod restart;
mod returning;
mod screens;
mod scrub;
mod space;
mod spares;
mod split;
mod tls;
mod top;
mod windows;
mod world;
