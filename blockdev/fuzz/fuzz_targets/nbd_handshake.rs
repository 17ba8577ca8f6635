//! Whole negotiations: every option but EXPORT_NAME gets one final reply, and every reply is framed
//! as it says.
#![no_main]

use std::rc::Rc;

use cairn_blockdev::export::nbd::handshake::{Encryption, Handshake, Step};
use cairn_blockdev::export::nbd::proto::{OPTION_REPLY_MAGIC, OptionReplyHeader, opt, rep};
use cairn_blockdev::export::nbd::{Connections, Export, Exports, Listed};
use cairn_blockdev::sim::{Sim, SimDisk, SimDiskConfig};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

const NAME: &str = "pg";

struct One(Export);

impl Exports for One {
    fn list(&self) -> Vec<Listed> {
        vec![Listed {
            name: NAME.to_owned(),
            description: String::new(),
        }]
    }

    fn open(&self, name: &str) -> Option<Export> {
        matches!(name, "" | NAME).then(|| self.0.clone())
    }
}

fn exports() -> One {
    let config = SimDiskConfig {
        size: 1 << 20,
        logical_block: 512,
        latency_us_max: 0,
    };
    One(Export {
        name: NAME.to_owned(),
        description: String::new(),
        device: Rc::new(SimDisk::new("disk", config, &Sim::new(0).env(), 0)),
        read_only: false,
        connections: Connections::new(),
    })
}

/// Final replies among `bytes`, which are replies from end to end.
fn finals(mut bytes: &[u8]) -> usize {
    let mut finals = 0;
    while !bytes.is_empty() {
        let (header, rest) = OptionReplyHeader::read_from_prefix(bytes).expect("a whole header");
        assert_eq!(header.magic.get(), OPTION_REPLY_MAGIC);
        let len = usize::try_from(header.len.get()).expect("64 bits");
        bytes = rest.get(len..).expect("a whole payload");
        finals += usize::from(header.kind.get() == rep::ACK || header.kind.get() >> 31 == 1);
    }
    finals
}

fuzz_target!(|input: ([u8; 4], u8, Vec<(u32, Vec<u8>)>)| {
    let (flags, encryption, options) = input;
    let encryption = match encryption % 3 {
        0 => Encryption::Unavailable,
        1 => Encryption::Offered,
        _ => Encryption::Required,
    };
    let Ok(mut handshake) = Handshake::new(flags, encryption) else {
        return;
    };
    let exports = exports();
    for (option, payload) in options {
        let option = option % 16;
        let mut out = Vec::new();
        let Ok(step) = handshake.option(option, &payload, &exports, &mut out) else {
            return;
        };
        if option != opt::EXPORT_NAME {
            assert_eq!(finals(&out), 1);
        }
        match step {
            Step::Continue => {}
            Step::StartTls => handshake = handshake.encrypted(),
            Step::Hangup | Step::Transmit(_) => return,
        }
    }
});
