//! Plays a history.

use xenstore::wire::header::MessageType as T;
use xenstore::wire::ring::Field;

use super::found::Worst;
use super::scene::{Request, Scene};
use super::step::{GUESTS, Mode, Op, Step, Within};

/// Transactions that a domain may have open.
const TRANSACTIONS: usize = 10;

/// Plays a history of at most so many requests, and returns its costs.
pub fn play(steps: &[Step], requests: usize, by_time: bool) -> Worst {
    let mut scene = Scene::new(requests, by_time);
    for step in steps {
        if scene.is_over() {
            break;
        }
        make(&mut scene, step);
        scene.settle();
    }
    let mut worst = scene.worst;
    worst.histories += 1;
    worst
}

fn make(scene: &mut Scene, step: &Step) {
    let domains = step.domains();
    if step.mode == Mode::Rings && step.op.with_path().is_some() {
        return by_rings(scene, step, &domains);
    }
    for domid in domains {
        match step.op {
            Op::StopReading => _ = scene.idle.insert(domid),
            Op::ReadAgain => {
                scene.idle.remove(&domid);
                scene.read(domid);
            }
            Op::Pass => scene.testbed.now_ms += 1 + u64::from(step.size) * 100,
            Op::Die if domid != 0 => scene.end(domid),
            Op::Die => {}
            Op::Reconnect => reconnect(scene, domid),
            Op::Begin => (0..=step.count.min(TRANSACTIONS as u8)).for_each(|_| {
                scene.ask(domid, &Request { kind: T::TransactionStart, transaction: 0, payload: vec![0] });
            }),
            Op::Commit | Op::Abort => end_transactions(scene, step, domid),
            Op::ResetWatches => {
                scene.ask(domid, &Request { kind: T::ResetWatches, transaction: 0, payload: vec![0] });
            }
            Op::Other => scene.ask(domid, &other(step, domid)),
            _ => {
                let requests = requests(scene, step, domid);
                match step.mode {
                    Mode::Turns => scene.ask_in_turns(domid, &requests),
                    _ => requests.iter().for_each(|request| scene.ask(domid, request)),
                }
            }
        }
    }
    if step.op == Op::Die {
        scene.settle();
        let gone = step.domains().into_iter().filter(|domid| scene.connection(*domid).is_none());
        gone.collect::<Vec<_>>().into_iter().for_each(|domid| scene.bear(domid));
    }
}

/// Sends the step's requests through the rings. All rings are full when the server reads them.
fn by_rings(scene: &mut Scene, step: &Step, domains: &[u16]) {
    let guests = domains.iter().filter(|domid| **domid != 0);
    let mut all: Vec<_> = guests.map(|domid| (*domid, requests(scene, step, *domid))).collect();
    while !scene.is_over() && !all.is_empty() {
        for (domid, requests) in &mut all {
            let count = scene.put_into_ring(*domid, requests);
            requests.drain(..count.min(requests.len()));
        }
        all.retain(|(_, requests)| !requests.is_empty());
        scene.settle();
    }
}

/// Returns one domain's requests of a step that names paths.
fn requests(scene: &Scene, step: &Step, domid: u16) -> Vec<Request> {
    let Some(kind) = step.op.with_path() else { return Vec::new() };
    let transactions = transactions(scene, step, domid);
    let request = |at: usize| {
        let payload = payload(kind, step, domid, at);
        let transactions = transactions.iter();
        transactions.map(move |transaction| Request { kind, transaction: *transaction, payload: payload.clone() })
    };
    (0..step.requests()).flat_map(request).collect()
}

fn transactions(scene: &Scene, step: &Step, domid: u16) -> Vec<u32> {
    let open = scene.transactions.get(&domid).map_or(&[][..], Vec::as_slice);
    match step.transaction() {
        Within::Nothing => vec![0],
        Within::Newest => open.last().copied().into_iter().collect(),
        Within::Oldest => open.first().copied().into_iter().collect(),
        Within::Each => open.to_vec(),
    }
}

fn payload(kind: T, step: &Step, domid: u16, at: usize) -> Vec<u8> {
    let path = step.path(domid, at);
    let bytes = usize::from(step.size) * 16;
    let payload = match kind {
        T::Write => format!("{path}\0{}", "v".repeat(bytes)),
        T::SetPerms => {
            // The domain remains the owner: it may not give its nodes away. All domains may write, and the list names many.
            let entries = (1..=u16::from(step.size) % 64).map(|entry| format!("r{}\0", entry % (GUESTS + 1)));
            format!("{path}\0b{domid}\0{}", entries.collect::<String>())
        }
        T::Watch | T::Unwatch => format!("{path}\0{at:0>bytes$}\0"),
        T::DirectoryPart => format!("{path}\0{}\0", bytes * at),
        _ => format!("{path}\0"),
    };
    let mut payload = payload.into_bytes();
    payload.truncate(4096);
    payload
}

fn end_transactions(scene: &mut Scene, step: &Step, domid: u16) {
    let ended = transactions(scene, step, domid);
    let payload = if step.op == Op::Commit { b"T\0" } else { b"F\0" };
    for transaction in ended.into_iter().filter(|transaction| *transaction != 0) {
        scene.ask(domid, &Request { kind: T::TransactionEnd, transaction, payload: payload.into() });
        scene.transactions.entry(domid).or_default().retain(|open| *open != transaction);
    }
}

fn reconnect(scene: &mut Scene, domid: u16) {
    let port = scene.testbed.machine.bound.iter().find(|(_, of)| of.0 == domid).map(|(port, _)| *port);
    if let Some(port) = port.filter(|_| domid != 0) {
        scene.testbed.set_word(domid, Field::Connection, 1);
        scene.testbed.server.handle_event(port);
        scene.transactions.remove(&domid);
    }
}

/// Returns a request whose cost does not depend on the nodes, or that only dom0 may make.
fn other(step: &Step, domid: u16) -> Request {
    let whom = u16::from(step.count) % (GUESTS + 2);
    let (kind, payload) = match step.size % 12 {
        0 => (T::GetDomainPath, format!("{whom}\0")),
        1 => (T::IsDomainIntroduced, format!("{whom}\0")),
        2 => (T::GetFeature, String::new()),
        3 => (T::GetQuota, String::new()),
        4 => (T::GetQuota, "nodes\0".into()),
        5 => (T::SetTarget, format!("{whom}\0{}\0", domid.max(1))),
        6 => (T::Resume, format!("{whom}\0")),
        7 => (T::Control, "check\0".into()),
        8 => (T::Control, "quota\0".into()),
        9 => (T::SetFeature, format!("{whom}\0{}\0", step.depth)),
        10 => (T::Introduce, format!("{whom}\x001\0{}\0", 1 + step.depth % 3)),
        _ => (T::Error, "v".repeat(usize::from(step.depth) * 16)),
    };
    Request { kind, transaction: 0, payload: payload.into() }
}
