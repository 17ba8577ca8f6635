//! Negotiation.

use cairn_blockdev::export::nbd::proto::{flag, opt, rep};
use cairn_blockdev::export::nbd::{NbdError, Stop};
use cairn_blockdev::units::u32_of;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, contexts, counted, info, u32_at, u64_at};
use crate::world::{SIZE, World};

#[test]
fn list_names_every_export() {
    let world = World::new(1);
    world.sim.block_on(async {
        let replies = world.client().await.ask(opt::LIST, &[]).await;
        let names: Vec<_> = replies
            .iter()
            .filter(|(kind, _)| *kind == rep::SERVER)
            .map(|(_, payload)| payload.clone())
            .collect();
        let expected = ["pg", "ro"].map(|name| [&counted(name)[..], b"a test"].concat());
        assert_eq!(names, expected);
    });
}

#[test]
fn info_tells_size_flags_and_block_sizes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        let replies = client.ask(opt::INFO, &info("pg", &[1, 2, 3])).await;
        let piece = |kind: u16| {
            let kind = kind.to_be_bytes();
            let found = replies.iter().find(|(_, info)| info.starts_with(&kind));
            found.unwrap().1[2..].to_vec()
        };
        let export = piece(0);
        assert_eq!(u64_at(&export, 0), SIZE);
        let flags = u16::from_be_bytes([export[8], export[9]]);
        assert_ne!(flags & flag::CAN_MULTI_CONN, 0);
        assert_eq!(flags & (flag::READ_ONLY | flag::SEND_DF), 0);
        assert_eq!(piece(1), b"pg");
        assert_eq!(piece(2), b"a test");
        let sizes = piece(3);
        let sizes = [u32_at(&sizes, 0), u32_at(&sizes, 4), u32_at(&sizes, 8)];
        assert_eq!(sizes, [512, 4096, 32 << 20]);
        // The connection is still negotiating.
        client.go("pg").await;
    });
}

#[test]
fn what_is_not_served_is_refused_and_the_negotiation_goes_on() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        assert_eq!(client.answer(opt::STARTTLS, &[]).await, rep::ERR_UNSUP);
        assert_eq!(client.answer(4711, b"whatever").await, rep::ERR_UNSUP);
        let unknown = client.answer(opt::GO, &info("nope", &[])).await;
        assert_eq!(unknown, rep::ERR_UNKNOWN);
        assert_eq!(client.answer(opt::LIST, b"x").await, rep::ERR_INVALID);
        assert_eq!(client.answer(opt::GO, b"xy").await, rep::ERR_INVALID);
        client.go("").await;
    });
}

#[test]
fn too_large_options_are_skipped_and_absurd_ones_close() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        let large = vec![0; 100 << 10];
        assert_eq!(client.answer(opt::GO, &large).await, rep::ERR_TOO_BIG);
        client.send(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff").await;
        assert!(client.rest().await.is_empty());
        assert!(matches!(
            world.end().await,
            Err(NbdError::OptionTooLarge { .. })
        ));
    });
}

#[test]
fn export_name_starts_transmission_with_and_without_zeroes() {
    for (flags, len) in [(1, 134), (3, 10)] {
        let world = World::new(1);
        world.sim.block_on(async {
            let mut client = Client::greeted_with(world.stream(), flags).await;
            client.option(opt::EXPORT_NAME, b"pg").await;
            let answer = client.bytes(len).await;
            assert_eq!(u64_at(&answer, 0), SIZE);
            client.write(0, &[7; 512]).await;
        });
    }
}

#[test]
fn export_name_of_nothing_closes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        client.option(opt::EXPORT_NAME, b"nope").await;
        assert!(client.rest().await.is_empty());
        let end = world.end().await;
        assert!(matches!(end, Err(NbdError::ExportName { name }) if name == "nope"));
    });
}

#[test]
fn contexts_want_structured_replies_and_stay_with_their_export() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        let choice = contexts("pg", &["base:allocation"]);
        let early = client.answer(opt::SET_META_CONTEXT, &choice).await;
        assert_eq!(early, rep::ERR_INVALID);
        assert_eq!(client.answer(opt::STRUCTURED_REPLY, &[]).await, rep::ACK);
        for (queries, expected) in [
            (&["base:"][..], 2),
            (&[], 3),
            (&["base:allocation"], 2),
            (&["x:y"], 1),
        ] {
            let payload = contexts("pg", queries);
            let replies = client.ask(opt::LIST_META_CONTEXT, &payload).await;
            assert_eq!(replies.len(), expected, "{queries:?}");
        }
        let replies = client.ask(opt::SET_META_CONTEXT, &choice).await;
        assert_eq!(&replies[0].1[4..], b"base:allocation");
        client.go("ro").await;
        // BLOCK_STATUS
        assert_eq!(client.errno((7, 0), 0, 512).await, 22);
    });
}

#[test]
fn a_client_may_abort_or_just_leave() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        assert_eq!(client.answer(opt::ABORT, &[]).await, rep::ACK);
        assert!(client.rest().await.is_empty());
        world.end().await.unwrap();
        drop(world.client().await);
        world.end().await.unwrap();
    });
}

#[test]
fn foreign_talk_closes() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = Client::greeted_with(world.stream(), 1 << 7).await;
        assert!(client.rest().await.is_empty());
        assert!(matches!(world.end().await, Err(NbdError::ClientFlags(128))));
        let mut client = world.client().await;
        client.send(b"GET / HTTP/1.1\r\n").await;
        assert!(client.rest().await.is_empty());
        assert!(matches!(world.end().await, Err(NbdError::OptionMagic(_))));
    });
}

#[test]
fn a_stalled_handshake_is_dropped() {
    let world = World::new(1);
    world.sim.block_on(async {
        let mut client = world.client().await;
        client.send(b"IHAVE").await;
        assert!(client.rest().await.is_empty());
        assert!(matches!(
            world.end().await,
            Err(NbdError::HandshakeTimeout(_))
        ));
        assert_eq!(world.listener.count(), 0);
    });
}

#[test]
fn an_export_that_is_closing_is_not_opened() {
    let world = World::new(1);
    world.sim.block_on(async {
        world.export.stop(Stop::Unexport);
        let mut client = world.client().await;
        let answer = client.answer(opt::GO, &info("pg", &[])).await;
        assert_eq!(answer, rep::ERR_SHUTDOWN);
    });
}

/// Options with a right header and a payload of anything, between bytes of anything.
fn talk() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let option = (0u32..14, payload.clone()).prop_map(|(option, payload)| {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(u32_of(payload.len()).to_be_bytes());
        bytes.extend(payload);
        bytes
    });
    prop::collection::vec(prop_oneof![8 => option, 1 => payload], 0..12)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn whatever_is_said_the_connection_comes_to_an_end(talk in talk(), flags in 0u32..5) {
        let world = World::new(1);
        world.sim.block_on(async {
            let mut client = Client::greeted_with(world.stream(), flags).await;
            client.send(&talk).await;
            client.stream.shutdown().await.unwrap();
            client.rest().await;
            let _ = world.end().await;
            assert_eq!((world.listener.count(), world.export.count()), (0, 0));
        });
    }
}
