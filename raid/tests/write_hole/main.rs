//! The write hole, tried at every crash point.

#[cfg(test)]
mod cases;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod explore;
#[cfg(all(test, feature = "mutations"))]
mod planted;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod script;
#[cfg(test)]
mod tape;
