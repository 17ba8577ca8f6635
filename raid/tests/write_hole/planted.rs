//! Planted bugs must be found: an enumeration that can't find them proves nothing.

use cairn_raid::mutation::{Mutation, plant, reached};

use crate::cases::{THREE_AND_ONE, THREE_AND_TWO, one_block};
use crate::explore::explore;

fn is_found(mutation: Mutation) {
    for shape in [THREE_AND_ONE, THREE_AND_TWO] {
        plant(Some(mutation));
        let found = explore(one_block(shape), 1);
        let was_reached = reached();
        plant(None);
        assert!(was_reached);
        match found {
            Err(finding) => println!("{mutation:?}: {}", finding.0),
            Ok(counts) => panic!("{mutation:?} isn't found: {counts}"),
        }
    }
}

#[test]
fn data_before_parity_is_found() {
    is_found(Mutation::DataBeforeParity);
}

#[test]
fn no_flush_between_parity_and_data_is_found() {
    is_found(Mutation::NoFlushBetween);
}
