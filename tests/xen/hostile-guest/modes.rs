//! The modes of the guest. Each returns its counts.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xenstore::wire::header::MessageType as T;
use xenstore::wire::ring::Field;

use crate::xen::{event_channel, time};

use super::client::Client;
use super::{Attack, processor};

/// The time that a request waits for room before the guest counts as held back.
const STUCK_MS: u64 = 300;

/// Computes on both processors and sends nothing: the reference for the other modes.
pub(super) fn spin(attack: &mut Attack<'_>) -> String {
    let second = processor::start(attack.memory, 0).is_ok();
    let mut turns = 0_u64;
    while attack.goes_on() {
        turns += 1;
    }
    format!("turns={turns} second-processor={}", if second { "yes" } else { "no" })
}

/// Scribbles on the indices from a second processor, while the first one sends.
pub(super) fn indices(attack: &mut Attack<'_>) -> String {
    let page = core::ptr::from_ref(attack.client.page());
    // SAFETY: the client's page, whose first byte has this address.
    let address = unsafe { (*page).address8(0) }.expose_provenance();
    let second = processor::start(attack.memory, address);
    let (mut signals, mut errors, mut reconnections) = (0_u64, 0_u64, 0_u64);
    while attack.goes_on() {
        processor::set(true);
        for _ in 0..200 {
            if second.is_err() {
                let field =
                    [Field::RequestProducer, Field::RequestConsumer, Field::ReplyProducer, Field::ReplyConsumer]
                        [attack.random.below(4) as usize];
                attack.client.store(field, attack.random.word());
            }
            attack.client.page().store32(attack.random.below(512) as usize * 4, attack.random.word());
            attack.client.signal();
            signals += 1;
        }
        if attack.client.load(Field::Error) != 0 {
            errors += 1;
            // Once without scribbling, so that there is a connection to attack again.
            processor::set(false);
            reconnections += u64::from(attack.client.reconnect());
        }
    }
    processor::set(false);
    let writes = processor::writes();
    let second = if second.is_ok() { "yes" } else { "no" };
    format!(
        "second-processor={second} scribbled={writes} signals={signals} errors={errors} reconnections={reconnections}"
    )
}

/// Signals without end, and sends nothing.
pub(super) fn flood(attack: &mut Attack<'_>) -> String {
    let mut signals = 0_u64;
    while attack.goes_on() {
        for _ in 0..1000 {
            attack.client.signal();
        }
        signals += 1000;
    }
    format!("signals={signals}")
}

/// Sends random bytes, and random requests.
pub(super) fn garbage(attack: &mut Attack<'_>) -> String {
    const PARTS: [&[u8]; 12] = [
        b"data\0",
        b"/\0",
        b"@releaseDomain\0",
        b"/local/domain/0\0",
        b"token\0",
        b"n0\0",
        b"../x\0",
        b"\0",
        b"\xff",
        b"-1\0",
        b"data/a/b/c\0",
        b"T\0",
    ];
    let (mut bytes, mut requests, mut reconnections) = (0_u64, 0_u64, 0_u64);
    while attack.goes_on() {
        if attack.client.load(Field::Error) != 0 {
            reconnections += u64::from(attack.client.reconnect());
            continue;
        }
        let message: Vec<u8> = if attack.random.below(50) == 0 {
            (0..attack.random.below(200)).map(|_| attack.random.word() as u8).collect()
        } else {
            let parts = (0..attack.random.below(4)).map(|_| PARTS[attack.random.below(PARTS.len() as u32) as usize]);
            let payload: Vec<u8> = parts.collect::<Vec<_>>().concat();
            let (kind, transaction) = (attack.random.below(30), attack.random.below(3));
            requests += 1;
            attack.client.request(kind, transaction, &payload)
        };
        bytes += attack.client.put(&message) as u64;
        attack.client.signal();
        attack.client.drop_replies();
        if attack.random.below(8) == 0 {
            Client::rest();
        }
    }
    format!("bytes={bytes} requests={requests} reconnections={reconnections}")
}

/// Requests more of one kind until it is refused. Returns how many were granted.
fn until_refused(attack: &mut Attack<'_>, mut request: impl FnMut(u32) -> (T, Vec<u8>)) -> u32 {
    for count in 0..5000 {
        let (kind, payload) = request(count);
        match attack.client.ask(kind, 0, &payload) {
            Some(Ok(_)) => {}
            _ => return count,
        }
    }
    5000
}

/// Fills every quota, and then reads no more.
pub(super) fn fill(attack: &mut Attack<'_>) -> String {
    let watches = until_refused(attack, |at| (T::Watch, format!("data\0watch{at}\0").into_bytes()));
    let transactions = until_refused(attack, |_| (T::TransactionStart, b"\0".to_vec()));
    let nodes =
        until_refused(attack, |at| (T::Write, [format!("data/{}/{at}\0", at / 40).as_bytes(), &[b'v'; 1500]].concat()));
    // Unread events that the guest causes itself, until it is held back.
    let request = attack.client.request(T::Write.to_wire(), 0, b"data/0/0\0again");
    let mut unread = 0;
    while unread < 5000 && attack.client.send(&request, STUCK_MS) {
        unread += 1;
    }
    while attack.goes_on() {
        attack.client.signal();
        Client::rest();
    }
    format!("watches={watches} transactions={transactions} nodes={nodes} unread={unread}")
}

/// Tries all forbidden requests.
pub(super) fn walk(attack: &mut Attack<'_>) -> String {
    const FORBIDDEN: [(T, &[u8]); 24] = [
        (T::Read, b"/local/domain/0/name\0"),
        (T::Read, b"/tool/xenstored/domid\0"),
        (T::Directory, b"/\0"),
        (T::Directory, b"/local/domain\0"),
        (T::Directory, b"/local/domain/0\0"),
        (T::GetPerms, b"/local/domain/0\0"),
        (T::Write, b"/intruder\0x"),
        (T::Write, b"/local/domain/0/intruder\0x"),
        (T::Write, b"name\0x"),
        (T::Mkdir, b"/tool/intruder\0"),
        (T::Rm, b"/local\0"),
        (T::Rm, b"/tool/xenstored\0"),
        (T::Rm, b"name\0"),
        (T::SetPerms, b"/\0b0\0"),
        (T::SetPerms, b"/local/domain/0\0b0\0"),
        (T::SetPerms, b"data\0n0\0"),
        (T::SetPerms, b"@releaseDomain\0b0\0"),
        (T::Introduce, b"1\x001\x001\0"),
        (T::Release, b"1\0"),
        (T::Resume, b"1\0"),
        (T::SetTarget, b"1\x000\0"),
        (T::IsDomainIntroduced, b"0\0"),
        (T::Control, b"help\0"),
        (T::Control, b"live-update\0-s\0"),
    ];
    let (mut refused, mut done, mut unanswered) = (0, 0, 0);
    while attack.goes_on() {
        for (kind, payload) in FORBIDDEN {
            match attack.client.ask(kind, 0, payload) {
                Some(Err(_)) => refused += 1,
                Some(Ok(_)) => {
                    done += 1;
                    log::info!("hostile: VIOLATION {kind:?} {}", payload.escape_ascii());
                }
                None => unanswered += 1,
            }
        }
        // The homes of others, by chance.
        let path = format!("/local/domain/{}/data\0", attack.random.below(40));
        let own = attack.client.ask(T::Read, 0, b"domid\0").and_then(Result::ok).unwrap_or_default();
        if path.trim_end_matches("/data\0").as_bytes().strip_prefix(b"/local/domain/") != Some(&own[..]) {
            match attack.client.ask(T::Rm, 0, path.as_bytes()) {
                Some(Ok(_)) => log::info!("hostile: VIOLATION removed {path:?}"),
                Some(Err(_)) => refused += 1,
                None => unanswered += 1,
            }
        }
    }
    format!("refused={refused} violations={done} unanswered={unanswered}")
}

/// Sends half a header, or half a payload: the end must not wait for the rest.
pub(super) fn half_a_request(attack: &mut Attack<'_>) {
    let request = attack.client.request(T::Write.to_wire(), 0, b"data/never\0done");
    attack.client.put(&request[..request.len() - 3]);
    attack.client.signal();
    let until = time::now_ms() + 50;
    while time::now_ms() < until {
        Client::rest();
    }
    // The port may be closed twice: the second time it no longer belongs to the guest.
    let _ = event_channel::close(attack.client.port());
}
