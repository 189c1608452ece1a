//! The ring page: two byte queues of 1024 bytes with free-running indices (`docs/misc/xenstore-ring.txt`,
//! `xen/include/public/io/xs_wire.h`, `struct xenstore_domain_interface`).
//!
//! The page is shared with a domain that may write anything at any moment. Each index of the domain is therefore loaded
//! once and checked. The server keeps its own indices here and only writes them to the page. Bytes are copied before
//! they are read.

/// Bytes in each of the two queues.
pub const RING_BYTES: usize = 1024;
/// [`RING_BYTES`] as an index distance.
const RING_SPAN: u32 = 1024;

/// A 32-bit word of the ring page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Bytes of requests that the server has consumed.
    RequestConsumer,
    /// Bytes of requests that the domain has produced.
    RequestProducer,
    /// Bytes of replies that the domain has consumed.
    ReplyConsumer,
    /// Bytes of replies that the server has produced.
    ReplyProducer,
    /// Feature bits that the server offers.
    Features,
    /// State of the connection: 0 connected, 1 reconnection requested by the domain.
    Connection,
    /// Why the server shut the connection.
    Error,
    /// The domain's port of the connection, if the domain's builder wrote it; otherwise 0.
    EventPort,
}

impl Field {
    /// Returns the offset in the page, in bytes; a multiple of four.
    #[must_use]
    pub const fn offset(self) -> usize {
        match self {
            Self::RequestConsumer => 2048,
            Self::RequestProducer => 2052,
            Self::ReplyConsumer => 2056,
            Self::ReplyProducer => 2060,
            Self::Features => 2064,
            Self::Connection => 2068,
            Self::Error => 2072,
            Self::EventPort => 2076,
        }
    }
}

/// Access to a ring page, by copies only.
pub trait RingPage {
    /// Loads a word, before any later access to the page (acquire).
    fn load(&self, field: Field) -> u32;
    /// Stores a word, after any earlier access to the page (release).
    fn store(&self, field: Field, value: u32);
    /// Copies bytes of the request queue out; `at + to.len()` is at most [`RING_BYTES`].
    fn copy_requests(&self, at: usize, to: &mut [u8]);
    /// Copies bytes into the reply queue; `at + from.len()` is at most [`RING_BYTES`].
    fn copy_replies(&self, at: usize, from: &[u8]);
    /// Orders all earlier stores before all later loads (a full fence).
    fn fence(&self);
}

/// The ring's indices are impossible: the distance of producer and consumer exceeds the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImpossibleIndex;

/// The server's side of one ring: the trusted copies of its own indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    request_consumer: u32,
    reply_producer: u32,
}

impl Ring {
    /// Adopts a page unchanged, as at a domain's first introduction: earlier consumption and production stay valid.
    pub fn adopt(page: &impl RingPage) -> Self {
        Self { request_consumer: page.load(Field::RequestConsumer), reply_producer: page.load(Field::ReplyProducer) }
    }

    /// Resumes a ring where a predecessor stopped: `request_consumer` bytes of requests were consumed, and
    /// `reply_producer` bytes of replies were produced.
    #[must_use]
    pub const fn resume(request_consumer: u32, reply_producer: u32) -> Self {
        Self { request_consumer, reply_producer }
    }

    /// Returns the bytes of requests consumed, and the bytes of replies produced.
    #[must_use]
    pub const fn indices(&self) -> (u32, u32) {
        (self.request_consumer, self.reply_producer)
    }

    /// Empties both queues, as at a repeated introduction.
    pub fn reset(page: &impl RingPage) -> Self {
        for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
            page.store(field, 0);
        }
        Self::default()
    }

    /// Returns whether the domain has erased its ring, as `hvmloader` does before it starts the next kernel. The
    /// server's indices in the page are then zero, while the server's own copies are not. The domain's index of
    /// consumed replies is zero too. Only the server writes its indices.
    pub fn is_erased(&self, page: &impl RingPage) -> bool {
        let is_zero = |field| page.load(field) == 0;
        *self != Self::default()
            && is_zero(Field::RequestConsumer)
            && is_zero(Field::ReplyProducer)
            && is_zero(Field::ReplyConsumer)
    }

    /// Returns the bytes of requests that wait.
    ///
    /// # Errors
    /// Fails with [`ImpossibleIndex`] if the domain's index is out of range.
    pub fn readable(&self, page: &impl RingPage) -> Result<usize, ImpossibleIndex> {
        distance(page.load(Field::RequestProducer), self.request_consumer)
    }

    /// Returns the free bytes in the reply queue.
    ///
    /// # Errors
    /// Fails with [`ImpossibleIndex`] if the domain's index is out of range.
    pub fn writable(&self, page: &impl RingPage) -> Result<usize, ImpossibleIndex> {
        Ok(RING_BYTES.saturating_sub(distance(self.reply_producer, page.load(Field::ReplyConsumer))?))
    }

    /// Copies up to `to.len()` bytes of requests out, across the wrap. Returns the number of bytes.
    ///
    /// # Errors
    /// Fails with [`ImpossibleIndex`] if the domain's index is out of range. Nothing is consumed then.
    pub fn read(&mut self, page: &impl RingPage, to: &mut [u8]) -> Result<usize, ImpossibleIndex> {
        let mut done = 0;
        let count = self.readable(page)?.min(to.len());
        while let Some(rest) = to.get_mut(done..count).filter(|rest| !rest.is_empty()) {
            let at = offset(self.request_consumer);
            let run = rest.len().min(RING_BYTES.saturating_sub(at));
            let Some(part) = rest.get_mut(..run) else { break };
            page.copy_requests(at, part);
            self.request_consumer = advance(self.request_consumer, run);
            done = done.saturating_add(run);
        }
        if done > 0 {
            page.store(Field::RequestConsumer, self.request_consumer);
        }
        Ok(done)
    }

    /// Copies as much of `from` as fits into the reply queue, across the wrap. Returns the number of bytes.
    ///
    /// # Errors
    /// Fails with [`ImpossibleIndex`] if the domain's index is out of range. Nothing is produced then.
    pub fn write(&mut self, page: &impl RingPage, from: &[u8]) -> Result<usize, ImpossibleIndex> {
        let mut done = 0;
        let count = self.writable(page)?.min(from.len());
        while let Some(rest) = from.get(done..count).filter(|rest| !rest.is_empty()) {
            let at = offset(self.reply_producer);
            let run = rest.len().min(RING_BYTES.saturating_sub(at));
            let Some(part) = rest.get(..run) else { break };
            page.copy_replies(at, part);
            self.reply_producer = advance(self.reply_producer, run);
            done = done.saturating_add(run);
        }
        if done > 0 {
            page.store(Field::ReplyProducer, self.reply_producer);
        }
        Ok(done)
    }
}

/// Returns the distance from `consumer` to `producer`, if it is possible.
fn distance(producer: u32, consumer: u32) -> Result<usize, ImpossibleIndex> {
    match producer.wrapping_sub(consumer) {
        distance @ 0..=RING_SPAN => usize::try_from(distance).map_err(|_| ImpossibleIndex),
        _ => Err(ImpossibleIndex),
    }
}

/// Returns an index's position in its queue.
const fn offset(index: u32) -> usize {
    (index % RING_SPAN) as usize
}

/// Returns the index `by` bytes ahead; `by` is at most [`RING_BYTES`].
const fn advance(index: u32, by: usize) -> u32 {
    index.wrapping_add(by as u32)
}
