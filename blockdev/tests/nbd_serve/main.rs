//! The NBD server from outside: raw bytes over an in-memory stream, in the simulator's world.

#[cfg(test)]
mod abuse;
#[cfg(test)]
mod client;
#[cfg(test)]
mod extended;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod starttls;
#[cfg(test)]
mod transmission;
#[cfg(test)]
mod world;
