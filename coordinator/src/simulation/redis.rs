//! A model of Redis for the commands that a partition uses, with what can happen between a client and it: a transaction
//! whose reply is lost, one that is executed seconds after its sender gave up, a server out of memory, a failover that
//! forgets the last transactions, and two primaries at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, Value};

use super::keys::{Args, Bytes, Data, Keys, Slot, error, number};
use super::universe::Universe;
use crate::servers::{Connection, Silent};

/// The client gives a reply up after this time.
const RESPONSE: Duration = Duration::from_secs(4);
#[derive(Debug, Default)]
struct Client {
    site: String,
    primary: usize,
    is_alive: bool,
    watched: Vec<(Bytes, u64)>,
    /// Commands since MULTI, and whether one was refused.
    queued: Option<(Vec<Args>, bool)>,
}

/// How often connections misbehave, in a thousand transactions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Temper {
    /// The connection breaks before the server reads.
    pub(super) lost: u64,
    /// It breaks after the server has executed.
    pub(super) untold: u64,
    /// The server executes after the client gave up.
    pub(super) late: u64,
    /// Somebody slips in between two commands of a pipeline.
    pub(super) slow: u64,
}

#[derive(Debug, Default)]
struct Inner {
    primaries: Vec<Keys>,
    /// Where new connections go.
    current: usize,
    /// A process that stays with an old primary.
    split: Option<(String, usize)>,
    clients: BTreeMap<i64, Client>,
    next: i64,
    temper: Temper,
    down_until: Duration,
    cut: BTreeMap<String, Duration>,
    is_full: bool,
}

#[derive(Clone)]
pub(super) struct Redis {
    universe: Universe,
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redis")
    }
}

impl Redis {
    pub(super) fn new(universe: &Universe) -> Self {
        let inner = Inner {
            primaries: vec![Keys::default()],
            ..Inner::default()
        };
        Self {
            universe: universe.clone(),
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    // ------------------------------------------------------------ faults

    pub(super) fn set_temper(&self, temper: Temper) {
        self.lock().temper = temper;
    }

    /// Away for a while with all its data.
    pub(super) fn restart(&self, away: Duration) {
        let until = self.universe.now() + away;
        let mut inner = self.lock();
        inner.down_until = until;
        inner.clients.values_mut().for_each(|c| c.is_alive = false);
    }

    /// A replica becomes the primary that has not seen the last `n` writes. Returns how many were forgotten.
    pub(super) fn fail_over(&self, n: usize) -> usize {
        let mut inner = self.lock();
        inner.clients.values_mut().for_each(|c| c.is_alive = false);
        let current = inner.current;
        inner.primaries[current].rewind(n)
    }

    /// As [`Self::fail_over`], but one process stays with the old primary, which goes on taking its writes.
    pub(super) fn split(&self, site: &str, n: usize) {
        let mut inner = self.lock();
        let old = inner.current;
        let mut keys = inner.primaries[old].clone();
        keys.rewind(n);
        inner.primaries.push(keys);
        inner.current = inner.primaries.len() - 1;
        inner.split = Some((site.into(), old));
        for client in inner.clients.values_mut() {
            client.is_alive &= client.site == site;
        }
    }

    /// All data is gone.
    pub(super) fn empty(&self) {
        let mut inner = self.lock();
        let current = inner.current;
        inner.primaries[current] = Keys::default();
        inner.clients.values_mut().for_each(|c| c.is_alive = false);
    }

    /// Somebody else writes the value that is there: transactions that watch it are aborted.
    pub(super) fn touch(&self, key: &str) {
        let mut inner = self.lock();
        let current = inner.current;
        inner.primaries[current].touch(key.as_bytes());
    }

    pub(super) fn cut(&self, site: &str, time: Duration) {
        let until = self.universe.now() + time;
        self.lock().cut.insert(site.into(), until);
    }

    pub(super) fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// Ends a split: what the old primary took is discarded.
    pub(super) fn join(&self) {
        let mut inner = self.lock();
        if let Some((_, old)) = inner.split.take() {
            for client in inner.clients.values_mut().filter(|c| c.primary == old) {
                client.is_alive = false;
            }
        }
    }

    pub(super) fn heal(&self) {
        self.join();
        let mut inner = self.lock();
        inner.temper = Temper::default();
        inner.down_until = Duration::ZERO;
        inner.cut.clear();
        inner.is_full = false;
    }

    // ------------------------------------------------------------ what it holds

    pub(super) fn hash(&self, key: &str) -> BTreeMap<Bytes, Bytes> {
        let inner = self.lock();
        match inner.primaries[inner.current].slots.get(key.as_bytes()) {
            Some(Slot {
                data: Data::Hash(hash),
                ..
            }) => hash.clone(),
            _ => BTreeMap::new(),
        }
    }

    pub(super) fn sorted(&self, key: &str) -> usize {
        let inner = self.lock();
        match inner.primaries[inner.current].slots.get(key.as_bytes()) {
            Some(Slot {
                data: Data::Sorted(set),
                ..
            }) => set.len(),
            _ => 0,
        }
    }

    fn is_reachable(&self, site: &str) -> bool {
        let now = self.universe.now();
        let inner = self.lock();
        inner.down_until <= now && inner.cut.get(site).is_none_or(|until| *until <= now)
    }

    pub(super) async fn connect(&self, site: &str) -> Result<Connection, Silent> {
        self.universe.sleep(Duration::from_millis(1)).await;
        if !self.is_reachable(site) {
            self.universe.sleep(Duration::from_secs(1)).await;
            return Err(Silent("connection refused".into()));
        }
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        let primary = match &inner.split {
            Some((split, old)) if split == site => *old,
            _ => inner.current,
        };
        let client = Client {
            site: site.into(),
            primary,
            is_alive: true,
            ..Client::default()
        };
        inner.clients.insert(id, client);
        Ok(Connection::new(Link {
            redis: self.clone(),
            id,
            site: site.into(),
        }))
    }
}

impl Inner {
    /// One command of a client, as the server would execute it.
    fn command(&mut self, id: i64, args: &Args) -> Value {
        let name = String::from_utf8_lossy(&args[0]).into_owned();
        let is_full = self.is_full;
        let client = self.clients.get_mut(&id).expect("clients stay known");
        let keys = &mut self.primaries[client.primary];
        match name.as_str() {
            "CLIENT" if args[1] == b"ID" => return Value::Int(id),
            "CLIENT" => {
                let other = number(&args[3]);
                if let Some(other) = self.clients.get_mut(&other) {
                    other.is_alive = false;
                }
                return Value::Int(1);
            }
            "WATCH" => {
                let watched = args[1..].iter().map(|key| (key.clone(), keys.version_of(key)));
                client.watched.extend(watched);
                return Value::Okay;
            }
            "UNWATCH" => {
                client.watched.clear();
                return Value::Okay;
            }
            "MULTI" => {
                client.queued = Some((Vec::new(), false));
                return Value::Okay;
            }
            "EXEC" => return self.exec(id),
            _ => {}
        }
        let is_write = !matches!(
            name.as_str(),
            "GET" | "HGETALL" | "HVALS" | "HSCAN" | "ZRANGEBYSCORE"
        );
        if let Some((queue, is_refused)) = &mut client.queued {
            if is_full && is_write {
                *is_refused = true;
                return error("OOM command not allowed when used memory > 'maxmemory'.");
            }
            queue.push(args.clone());
            return Value::SimpleString("QUEUED".into());
        }
        if is_full && is_write {
            return error("OOM command not allowed when used memory > 'maxmemory'.");
        }
        let mut writes = Vec::new();
        let reply = keys.execute(args, &mut writes);
        keys.remember(writes);
        reply
    }

    fn exec(&mut self, id: i64) -> Value {
        let client = self.clients.get_mut(&id).expect("clients stay known");
        let keys = &mut self.primaries[client.primary];
        let (queue, is_refused) = client.queued.take().expect("EXEC follows MULTI");
        let watched = std::mem::take(&mut client.watched);
        if is_refused {
            return error("EXECABORT Transaction discarded because of previous errors.");
        }
        if watched
            .iter()
            .any(|(key, version)| keys.version_of(key) != *version)
        {
            return Value::Nil;
        }
        let mut writes = Vec::new();
        let replies = queue.iter().map(|args| keys.execute(args, &mut writes)).collect();
        keys.remember(writes);
        Value::Array(replies)
    }
}

/// A connection.
struct Link {
    redis: Redis,
    id: i64,
    site: String,
}

impl Drop for Link {
    fn drop(&mut self) {
        // A process that dies closes its sockets, but what it has sent is read all the same.
        let redis = self.redis.clone();
        let id = self.id;
        self.redis.universe.spawn(async move {
            redis.universe.sleep(Duration::from_millis(5)).await;
            if let Some(client) = redis.lock().clients.get_mut(&id) {
                client.is_alive = false;
            }
        });
    }
}

impl Link {
    async fn run(&self, commands: Vec<Args>) -> Result<Vec<Value>, RedisError> {
        let (redis, universe) = (&self.redis, &self.redis.universe);
        let temper = redis.lock().temper;
        universe
            .sleep(universe.between(Duration::ZERO, Duration::from_micros(400)))
            .await;
        if !redis.is_reachable(&self.site) {
            universe.sleep(RESPONSE).await;
            return Err(broken("response timed out"));
        }
        let is_alive = |redis: &Redis| redis.lock().clients[&self.id].is_alive;
        if !is_alive(redis) || universe.chance(temper.lost) {
            self.close();
            return Err(broken("connection reset"));
        }
        if universe.chance(temper.late) {
            self.later(commands);
            universe.sleep(RESPONSE).await;
            return Err(broken("response timed out"));
        }
        let mut replies = Vec::with_capacity(commands.len());
        for args in &commands {
            replies.push(redis.lock().command(self.id, args));
            if universe.chance(temper.slow) {
                universe
                    .sleep(universe.between(Duration::ZERO, Duration::from_millis(5)))
                    .await;
            }
        }
        if universe.chance(temper.untold) || !is_alive(redis) {
            self.close();
            return Err(broken("connection reset"));
        }
        universe
            .sleep(universe.between(Duration::ZERO, Duration::from_micros(400)))
            .await;
        Ok(replies)
    }

    fn close(&self) {
        self.redis.lock().clients.get_mut(&self.id).unwrap().is_alive = false;
    }

    /// The server was slow: it executes when the client has long given up, unless the connection was killed before.
    fn later(&self, commands: Vec<Args>) {
        let (redis, id) = (self.redis.clone(), self.id);
        let delay = redis
            .universe
            .between(Duration::from_millis(100), Duration::from_secs(8));
        self.redis.universe.spawn(async move {
            redis.universe.sleep(delay).await;
            let mut inner = redis.lock();
            if inner.clients[&id].is_alive {
                for args in &commands {
                    inner.command(id, args);
                }
            }
        });
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move { Ok(self.run(vec![args_of(cmd)]).await?.remove(0)) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let replies = self.run(cmd.cmd_iter().map(args_of).collect()).await?;
            Ok(replies.into_iter().skip(offset).take(count).collect())
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

fn args_of(cmd: &Cmd) -> Args {
    cmd.args_iter()
        .map(|arg| match arg {
            redis::Arg::Simple(bytes) => bytes.to_vec(),
            _ => panic!("no cursors"),
        })
        .collect()
}

fn broken(text: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, text))
}
