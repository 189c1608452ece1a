//! The ring page: two byte queues of 1024 bytes with free-running indices (`docs/misc/xenstore-ring.txt`,
//! `xen/include/public/io/xs_wire.h`, `struct xenstore_domain_interface`).
//!
//! The page is shared with a domain that may write anything at any moment. So each index of the other side is loaded
//! once and checked, our own indices are kept here and only ever written to the page, and bytes are copied before
//! anybody looks at them.

/// Bytes in each of the two queues.
pub const RING_BYTES: usize = 1024;
/// [`RING_BYTES`] as an index distance.
const RING_SPAN: u32 = 1024;

/// A 32-bit word of the ring page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Bytes of requests that we consumed.
    RequestConsumer,
    /// Bytes of requests that the domain produced.
    RequestProducer,
    /// Bytes of replies that the domain consumed.
    ReplyConsumer,
    /// Bytes of replies that we produced.
    ReplyProducer,
    /// Feature bits that we offer.
    Features,
    /// State of the connection: 0 connected, 1 the domain asks for a reconnection.
    Connection,
    /// Why we shut the connection.
    Error,
    /// The domain's port of our connection, if who built the domain wrote it down; 0 if not.
    EventPort,
}

impl Field {
    /// Offset in the page, in bytes; a multiple of four.
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

/// The indices of the ring can't be: the distance of producer and consumer exceeds the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImpossibleIndex;

/// Our side of one ring: the trusted copies of the indices that we own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    request_consumer: u32,
    reply_producer: u32,
}

impl Ring {
    /// Takes over a page as it stands, as at a domain's first introduction: whatever has been consumed or produced
    /// before stays so.
    pub fn adopt(page: &impl RingPage) -> Self {
        Self { request_consumer: page.load(Field::RequestConsumer), reply_producer: page.load(Field::ReplyProducer) }
    }

    /// Our side of a ring that a predecessor served, where it stopped: the bytes of requests that it consumed, and those of
    /// replies that it produced.
    #[must_use]
    pub const fn resume(request_consumer: u32, reply_producer: u32) -> Self {
        Self { request_consumer, reply_producer }
    }

    /// Bytes of requests that were consumed, and bytes of replies that were produced.
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

    /// Whether the domain has erased its ring, as `hvmloader` does before it starts the next kernel. This is the case if the
    /// server's indices in the page are zero, while the server's own copies are not, and the domain's index of consumed replies
    /// is zero too. Only the server writes its indices.
    pub fn is_erased(&self, page: &impl RingPage) -> bool {
        let is_zero = |field| page.load(field) == 0;
        *self != Self::default()
            && is_zero(Field::RequestConsumer)
            && is_zero(Field::ReplyProducer)
            && is_zero(Field::ReplyConsumer)
    }

    /// Bytes of requests that wait.
    ///
    /// # Errors
    /// [`ImpossibleIndex`] when the domain's index is out of range.
    pub fn readable(&self, page: &impl RingPage) -> Result<usize, ImpossibleIndex> {
        distance(page.load(Field::RequestProducer), self.request_consumer)
    }

    /// Free bytes in the reply queue.
    ///
    /// # Errors
    /// [`ImpossibleIndex`] when the domain's index is out of range.
    pub fn writable(&self, page: &impl RingPage) -> Result<usize, ImpossibleIndex> {
        Ok(RING_BYTES.saturating_sub(distance(self.reply_producer, page.load(Field::ReplyConsumer))?))
    }

    /// Copies up to `to.len()` bytes of requests out, across the wrap, and returns how many.
    ///
    /// # Errors
    /// [`ImpossibleIndex`] when the domain's index is out of range; nothing was consumed then.
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

    /// Copies as much of `from` as fits into the reply queue, across the wrap, and returns how many bytes.
    ///
    /// # Errors
    /// [`ImpossibleIndex`] when the domain's index is out of range; nothing was produced then.
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

/// The distance from `consumer` to `producer`, when it is possible.
fn distance(producer: u32, consumer: u32) -> Result<usize, ImpossibleIndex> {
    match producer.wrapping_sub(consumer) {
        distance @ 0..=RING_SPAN => usize::try_from(distance).map_err(|_| ImpossibleIndex),
        _ => Err(ImpossibleIndex),
    }
}

/// Where in its queue an index points.
const fn offset(index: u32) -> usize {
    (index % RING_SPAN) as usize
}

/// An index `by` bytes further on; `by` is at most [`RING_BYTES`].
const fn advance(index: u32, by: usize) -> u32 {
    index.wrapping_add(by as u32)
}
