//! What is said to the kernel's `nbd` family, and what it says (`linux/nbd-netlink.h`). Pure.

use std::time::Duration;

use super::netlink::{Attributes, GENL_ID_CTRL, List, Received, request};

/// How long the device waits for a new socket after it has lost its own: longer than any daemon's
/// restart, with an array that waits for its disks (up to an hour, if it is configured so), and than work on
/// an array that was stopped for it. After it new requests fail.
pub const DEAD_LINK_TIMEOUT: Duration = Duration::from_hours(24);

/// What TIMEOUT says: none. With one, a request that is only slow would cost its socket and be sent
/// again while the first is still being served, and a late first write could undo a later one. With
/// none the kernel only looks, every [`super::LOOK_EVERY`], whether the request's socket has been
/// replaced since, and sends it again then.
const NO_TIMEOUT_SECONDS: u64 = 0;

const FAMILY: &str = "nbd";
const GROUP: &str = "nbd_mc_group";

mod ctrl {
    pub(super) const GETFAMILY: u8 = 3;
    pub(super) const FAMILY_ID: u16 = 1;
    pub(super) const FAMILY_NAME: u16 = 2;
    pub(super) const MCAST_GROUPS: u16 = 7;
    pub(super) const GROUP_NAME: u16 = 1;
    pub(super) const GROUP_ID: u16 = 2;
}

mod cmd {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
    pub(super) const LINK_DEAD: u8 = 4;
}

mod attr {
    pub(super) const INDEX: u16 = 1;
    pub(super) const SIZE_BYTES: u16 = 2;
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    pub(super) const TIMEOUT: u16 = 4;
    pub(super) const SERVER_FLAGS: u16 = 5;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
    /// Within SOCKETS, one each.
    pub(super) const SOCKET: u16 = 1;
    /// Within SOCKET: its descriptor.
    pub(super) const DESCRIPTOR: u16 = 1;
}

/// A device as the kernel is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Whose it is: the kernel shows it in sysfs, and wants it again for every change.
    pub identifier: String,
    /// Bytes, a multiple of the block.
    pub size: u64,
    /// Bytes of a logical block.
    pub block: u32,
    /// Transmission flags ([`super::super::nbd::proto::flag`]).
    pub flags: u16,
}

/// The number of the `nbd` family, and of its group for news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// For requests.
    pub id: u16,
    /// For news.
    pub group: Option<u32>,
}

/// Asks for the family's number.
pub fn resolve(sequence: u32) -> Vec<u8> {
    let attributes = Attributes::new().text(ctrl::FAMILY_NAME, FAMILY);
    request(GENL_ID_CTRL, ctrl::GETFAMILY, sequence, &attributes)
}

/// The answer to [`resolve`].
pub fn resolved(attributes: List<'_>) -> Option<Family> {
    let groups = attributes.nested(ctrl::MCAST_GROUPS);
    let group = groups.and_then(|groups| {
        groups
            .nested_items()
            .find(|group| group.text(ctrl::GROUP_NAME) == Some(GROUP))
            .and_then(|group| group.u32(ctrl::GROUP_ID))
    });
    Some(Family {
        id: attributes.u16(ctrl::FAMILY_ID)?,
        group,
    })
}

/// Sets up a device, the first that is free, over a socket that is in transmission already.
pub fn connect(family: Family, sequence: u32, device: &Device, socket: u32) -> Vec<u8> {
    let attributes = shape(device)
        .u64(attr::SERVER_FLAGS, device.flags.into())
        .nested(attr::SOCKETS, &socket_list(socket));
    request(family.id, cmd::CONNECT, sequence, &attributes)
}

/// Hands over a socket in the place of the dead one, and tells the size again.
pub fn reconfigure(
    family: Family,
    sequence: u32,
    index: u32,
    device: &Device,
    socket: Option<u32>,
) -> Vec<u8> {
    let mut attributes = shape(device).u32(attr::INDEX, index);
    if let Some(socket) = socket {
        attributes = attributes.nested(attr::SOCKETS, &socket_list(socket));
    }
    request(family.id, cmd::RECONFIGURE, sequence, &attributes)
}

/// Ends a device.
pub fn disconnect(family: Family, sequence: u32, index: u32) -> Vec<u8> {
    let attributes = Attributes::new().u32(attr::INDEX, index);
    request(family.id, cmd::DISCONNECT, sequence, &attributes)
}

/// The number of the device that an answer to CONNECT is about.
pub fn connected(attributes: List<'_>) -> Option<u32> {
    attributes.u32(attr::INDEX)
}

/// The number of the device that has lost a socket, if that is the news.
pub fn dead_link(family: Family, message: Received<'_>) -> Option<u32> {
    match message {
        Received::Message {
            family: id,
            command: cmd::LINK_DEAD,
            attributes,
            ..
        } if id == family.id => attributes.u32(attr::INDEX),
        _ => None,
    }
}

fn shape(device: &Device) -> Attributes {
    Attributes::new()
        .u64(attr::SIZE_BYTES, device.size)
        .u64(attr::BLOCK_SIZE_BYTES, device.block.into())
        .u64(attr::TIMEOUT, NO_TIMEOUT_SECONDS)
        .u64(attr::DEAD_CONN_TIMEOUT, DEAD_LINK_TIMEOUT.as_secs())
        .text(attr::BACKEND_IDENTIFIER, &device.identifier)
}

fn socket_list(socket: u32) -> Attributes {
    let item = Attributes::new().u32(attr::DESCRIPTOR, socket);
    Attributes::new().nested(attr::SOCKET, &item)
}

#[cfg(test)]
mod tests {
    use super::super::netlink::received;
    use super::*;
    use proptest::prelude::*;

    const NBD: Family = Family {
        id: 33,
        group: Some(7),
    };

    fn device() -> Device {
        Device {
            identifier: "cairn-1".to_owned(),
            size: 1 << 30,
            block: 4096,
            flags: 0x25,
        }
    }

    fn attributes(message: &[u8]) -> List<'_> {
        match received(message).next() {
            Some(Received::Message { attributes, .. }) => attributes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn golden_frames() {
        let expected = [
            &[28, 0, 0, 0, 33, 0, 5, 0, 4, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 1, 0, 0],
            &[8, 0, 1, 0, 3, 0, 0, 0],
        ];
        assert_eq!(disconnect(NBD, 4, 3), expected.concat());
        let expected = [
            // 108 bytes, family 33, sequence 2; CONNECT.
            &[108, 0, 0, 0, 33, 0, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 1, 0, 0],
            // Size, block, no timeout, dead links' of 86,400 s.
            &[12, 0, 2, 0, 0, 0, 0, 64, 0, 0, 0, 0],
            &[12, 0, 3, 0, 0, 16, 0, 0, 0, 0, 0, 0],
            &[12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[12, 0, 8, 0, 128, 81, 1, 0, 0, 0, 0, 0],
            // The identifier with its NUL.
            &[12, 0, 10, 0, b'c', b'a', b'i', b'r', b'n', b'-', b'1', 0],
            // Server flags.
            &[12, 0, 5, 0, 0x25, 0, 0, 0, 0, 0, 0, 0],
            // The socket, 9.
            &[16, 0, 7, 0x80],
            &[12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0],
        ];
        assert_eq!(connect(NBD, 2, &device(), 9), expected.concat());
    }

    #[test]
    fn a_change_names_its_device_and_may_have_no_socket() {
        let message = reconfigure(NBD, 1, 5, &device(), None);
        let attributes = attributes(&message);
        assert_eq!(attributes.u32(attr::INDEX), Some(5));
        assert_eq!(attributes.text(attr::BACKEND_IDENTIFIER), Some("cairn-1"));
        assert_eq!(attributes.nested(attr::SOCKETS), None);
    }

    #[test]
    fn the_family_is_found_with_its_group() {
        let group = |name, id| {
            Attributes::new()
                .u32(ctrl::GROUP_ID, id)
                .text(ctrl::GROUP_NAME, name)
        };
        let groups = Attributes::new()
            .nested(1, &group("other", 3))
            .nested(2, &group(GROUP, 7));
        let answer = Attributes::new()
            .text(ctrl::FAMILY_NAME, FAMILY)
            .bytes(ctrl::FAMILY_ID, &33u16.to_ne_bytes())
            .nested(ctrl::MCAST_GROUPS, &groups);
        let message = request(GENL_ID_CTRL, 1, 1, &answer);
        assert_eq!(resolved(attributes(&message)), Some(NBD));
        let without = Attributes::new().bytes(ctrl::FAMILY_ID, &33u16.to_ne_bytes());
        let message = request(GENL_ID_CTRL, 1, 1, &without);
        let family = resolved(attributes(&message)).unwrap();
        assert_eq!(family, Family { group: None, ..NBD });
    }

    #[test]
    fn news_of_a_dead_link_name_the_device() {
        let message = request(
            33,
            cmd::LINK_DEAD,
            0,
            &Attributes::new().u32(attr::INDEX, 2),
        );
        let news = received(&message).next().unwrap();
        assert_eq!(dead_link(NBD, news), Some(2));
        assert_eq!(dead_link(Family { id: 34, ..NBD }, news), None);
    }

    proptest! {
        #[test]
        fn whatever_is_heard_is_taken_or_not(bytes in prop::collection::vec(0u8..40, 0..120)) {
            for message in received(&bytes) {
                dead_link(NBD, message);
                if let Received::Message { attributes, .. } = message {
                    resolved(attributes);
                    connected(attributes);
                }
            }
        }
    }
}
