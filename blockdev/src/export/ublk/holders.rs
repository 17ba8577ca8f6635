//! Who uses a ublk device, so that nobody's file system is taken away by mistake.

use crate::disk::holder_of;
use crate::disk::sysfs::Sysfs;
use crate::disk::usage::{self, Tables};

/// Who uses the device or a partition of it, as a sentence; `None` if nobody is known to. See
/// [`holder_of`].
pub fn holder(number: u32) -> Option<String> {
    holder_of(&name(number))
}

/// Whether the device or a partition of it is mounted, swap or built over. Cheaper than
/// [`holder`]: processes aren't looked at.
pub fn is_used(number: u32) -> bool {
    let (sys, name) = (Sysfs::system(), name(number));
    let dirs = sys.whole_devices().unwrap_or_default();
    let dir = dirs.iter().find(|dir| dir.name() == name);
    dir.is_some_and(|dir| usage::of_block(&sys, dir, &Tables::system()).is_some())
}

fn name(number: u32) -> String {
    format!("ublkb{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_holder() {
        assert_eq!(holder(u32::MAX - 1), None);
    }
}
