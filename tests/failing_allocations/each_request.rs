//! Each type of request, of a guest and of dom0, with every amount of free memory from nothing on. A refused request
//! changes nothing. An executed request keeps no more than was free beyond the reserve.

use xenstore::limits;
use xenstore::wire::header::MessageType as T;

use crate::Host;
use crate::support::allocator;
use crate::support::host::Answer;

/// Steps of free memory. Budgets have units of three bytes, and 256 in addition. Smaller steps show nothing more.
const STEP_BYTES: usize = 256;

/// Bytes that a request may keep without a check:
///
/// - the reply that always passes, its ticket, places in queues, and two events
/// - a list of names that becomes a map
/// - the surplus of the buffer of the control domain's reply, which has the next larger size and is kept for reuse
const UNASKED_BYTES: usize = 2560;

/// Bytes that a request may take while it runs, besides those that it keeps: payload, changes, permissions, lists.
const WORK_BYTES: usize = 32 * 1024;

/// A request: its domain, whether it is in the domain's transaction, and its type and payload.
struct Request {
    domid: u16,
    in_transaction: bool,
    kind: T,
    payload: Vec<u8>,
}

/// The state when a request comes.
struct Scene {
    host: Host,
    transactions: [u32; 3],
}

/// Returns guests with nodes, watches on each other, and open transactions. The commits of all but dom0's need a
/// replay.
fn scene() -> Scene {
    let mut host = Host::new();
    for domid in [1, 2] {
        host.start(domid);
    }
    host.build(3);
    host.ask(0, T::SetPerms, "/local/domain/1\0n1\0r2\0").unwrap();
    for at in 0..30 {
        host.ask(1, T::Write, format!("dir/{at:020}\0{}", "v".repeat(at * 3))).unwrap();
    }
    host.ask(1, T::Write, format!("large\0{}", "v".repeat(1500))).unwrap();
    host.ask(1, T::Mkdir, format!("{}\0", vec!["d"; 200].join("/"))).unwrap();
    host.ask(1, T::SetPerms, "dir\0n1\0b2\0").unwrap();
    host.ask(2, T::Watch, "/local/domain/1\0token\0").unwrap();
    host.ask(0, T::Watch, "/local/domain/1/dir\0token\0").unwrap();
    host.ask(0, T::Watch, "@releaseDomain\0token\0").unwrap();
    let mut transactions = [0; 3];
    for domid in [0, 1, 2] {
        let number = host.begin(domid);
        transactions[usize::from(domid)] = number;
        host.ask_in(domid, number, T::Read, "/local/domain/1/dir/00000000000000000007\0").unwrap();
        host.ask_in(domid, number, T::Write, "/local/domain/1/dir/in\0value").unwrap();
        host.ask_in(domid, number, T::Directory, "/local/domain/1/dir\0").unwrap();
    }
    // A conflict that a replay resolves.
    host.ask(1, T::Write, "dir/00000000000000000007\0".to_owned() + &"v".repeat(21)).unwrap();
    for domid in [0, 1, 2] {
        host.stall(domid);
    }
    host.taken();
    Scene { host, transactions }
}

fn requests() -> Vec<Request> {
    let long = "n".repeat(200);
    let nodes = [
        (T::Directory, "/local/domain/1/dir\0".to_owned()),
        (T::DirectoryPart, "/local/domain/1/dir\x000\0".to_owned()),
        (T::Read, "/local/domain/1/large\0".to_owned()),
        (T::Read, "/local/domain/1/dir/00000000000000000001\0".to_owned()),
        (T::GetPerms, "/local/domain/1/dir\0".to_owned()),
        (T::Write, format!("/local/domain/1/dir/new\0{long}")),
        (T::Write, format!("/local/domain/1/dir/{long}/{long}/{long}\0{long}")),
        (T::Write, format!("/local/domain/1/large\0{}", "w".repeat(1900))),
        (T::Write, "/local/domain/1/large\0short".to_owned()),
        (T::Mkdir, format!("/local/domain/1/dir/{}\0", vec!["e"; 150].join("/"))),
        (T::Rm, "/local/domain/1/dir\0".to_owned()),
        (T::SetPerms, "/local/domain/1/dir\0n1\0b2\0r1\0r2\0".to_owned()),
    ];
    let own = [
        (T::Watch, format!("/local/domain/1/{long}\0{long}\0")),
        (T::Unwatch, "/local/domain/1\0token\0".to_owned()),
        (T::ResetWatches, "\0".to_owned()),
        (T::TransactionStart, "\0".to_owned()),
        (T::GetDomainPath, "1\0".to_owned()),
        (T::GetFeature, String::new()),
    ];
    let control = [
        (T::Introduce, "3\x001\x003\0".to_owned()),
        (T::Introduce, "2\x001\x007\0".to_owned()),
        (T::Release, "1\0".to_owned()),
        (T::Resume, "1\0".to_owned()),
        (T::SetTarget, "1\x002\0".to_owned()),
        (T::IsDomainIntroduced, "1\0".to_owned()),
        (T::SetFeature, "3\x001\0".to_owned()),
        (T::GetQuota, String::new()),
        (T::SetQuota, "3\0nodes\x005\0".to_owned()),
        (T::Control, "check\0".to_owned()),
        (T::Control, "help\0".to_owned()),
        (T::Control, format!("print\0{}\0", "p".repeat(4000))),
        (T::Control, "quota\0".to_owned()),
        (T::Control, "memreport\0".to_owned()),
    ];
    let end = [(T::TransactionEnd, "T\0".to_owned()), (T::TransactionEnd, "F\0".to_owned())];
    let mut all = Vec::new();
    for domid in [0, 1, 2] {
        let mut add = |in_transaction, list: &[(T, String)]| {
            all.extend(list.iter().map(|(kind, payload)| Request {
                domid,
                in_transaction,
                kind: *kind,
                payload: payload.clone().into_bytes(),
            }));
        };
        add(false, &nodes);
        add(false, &own);
        add(true, &nodes);
        add(true, &end);
        if domid == 0 {
            add(false, &control);
        }
    }
    all
}

fn ask(scene: &mut Scene, request: &Request, free: usize) -> (allocator::Taken, Answer) {
    let Request { domid, in_transaction, kind, ref payload } = *request;
    let transaction = if in_transaction { scene.transactions[usize::from(domid)] } else { 0 };
    allocator::set_free(free);
    scene.host.taken();
    scene.host.send(domid, transaction, kind, payload);
    let taken = scene.host.taken();
    allocator::set_free(usize::MAX / 2);
    scene.host.go_on(domid);
    let answer = scene.host.reply(domid).expect("a reply");
    (taken, answer)
}

#[test]
fn a_request_is_refused_without_a_trace_or_fits_into_its_free_memory() {
    let (mut tries, mut refusals, mut allocations) = (0, 0, 0);
    let mut wrong = Vec::new();
    let mut most = (0, 0);
    for request in requests() {
        let reserve = if request.domid == 0 { limits::PRIVILEGED_RESERVE_BYTES } else { limits::GUEST_RESERVE_BYTES };
        let name = format!(
            "domain {} {:?} {} in a transaction: {}",
            request.domid,
            request.kind,
            request.in_transaction,
            request.payload[..request.payload.len().min(40)].escape_ascii()
        );
        let mut scene_now = scene();
        let before = scene_now.host.state(request.in_transaction);
        for beyond in (0..).step_by(STEP_BYTES) {
            let free = reserve + beyond;
            let (taken, answer) = ask(&mut scene_now, &request, free);
            tries += 1;
            allocations += taken.allocations;
            if taken.overdrafts > 0 {
                wrong.push(format!("{name}: {free} bytes free, {taken:?}"));
            }
            let held = usize::try_from(taken.held).unwrap_or(0);
            let was_refused = answer.as_ref().is_err_and(|error| error == "ENOSPC");
            if was_refused {
                refusals += 1;
                if held > beyond + UNASKED_BYTES {
                    wrong.push(format!("{name}: refused with {free} free, and keeps {held} bytes"));
                    break;
                }
                let after = scene_now.host.state(request.in_transaction);
                if let Some((one, other)) = before.iter().zip(&after).find(|(one, other)| one != other) {
                    wrong.push(format!("{name}: refused with {free} free, and of {one:?} was made {other:?}"));
                    break;
                }
                assert_eq!(before.len(), after.len());
                if request.in_transaction {
                    // A transaction that was refused an access cannot be committed any more.
                    scene_now = scene();
                }
                scene_now.host.stall(request.domid);
                continue;
            }
            most = (most.0.max(held.saturating_sub(beyond)), most.1.max(taken.peak - held));
            if held > beyond + UNASKED_BYTES {
                wrong.push(format!("{name}: keeps {held} bytes, and {beyond} were free for it"));
            }
            if taken.peak > held + WORK_BYTES {
                wrong.push(format!("{name}: takes {} bytes for its work", taken.peak - held));
            }
            scene_now.host.check();
            break;
        }
    }
    println!(
        "{tries} tries, {refusals} refused; {allocations} allocations; {most:?} kept without a check, and for work"
    );
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
}
