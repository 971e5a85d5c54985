//! The data of one primary: text, hashes and sorted sets, the commands on them, and what a failover can take back.

use std::collections::{BTreeMap, VecDeque};

use redis::Value;

/// Transactions that no failover forgets.
const FIRST: usize = 20;
/// Transactions that a failover can forget.
const HISTORY: usize = 500;

pub(super) type Bytes = Vec<u8>;
pub(super) type Args = Vec<Bytes>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Text(Bytes),
    Hash(BTreeMap<Bytes, Bytes>),
    Sorted(BTreeMap<Bytes, i64>),
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) data: Data,
    pub(super) version: u64,
}

/// The data of one primary.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pub(super) slots: BTreeMap<Bytes, Slot>,
    version: u64,
    /// What each write replaced, the newest last.
    undo: VecDeque<Vec<(Bytes, Option<Slot>)>>,
}

impl Keys {
    pub(super) fn rewind(&mut self, n: usize) -> usize {
        // Not to before the partitions were first taken: an empty primary halts them, and has a test of its own.
        for done in 0..n.min(self.undo.len().saturating_sub(FIRST)) {
            let Some(writes) = self.undo.pop_back() else {
                return done;
            };
            for (key, before) in writes.into_iter().rev() {
                match before {
                    Some(slot) => drop(self.slots.insert(key, slot)),
                    None => drop(self.slots.remove(&key)),
                }
            }
        }
        n
    }

    /// Counts as written, with the value that is there.
    pub(super) fn touch(&mut self, key: &[u8]) {
        self.version += 1;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.version = self.version;
        }
    }

    pub(super) fn version_of(&self, key: &[u8]) -> u64 {
        self.slots.get(key).map_or(0, |slot| slot.version)
    }

    /// The data under a key, to be changed; remembers what it was.
    fn change(&mut self, key: &[u8], empty: Data, writes: &mut Vec<(Bytes, Option<Slot>)>) -> &mut Data {
        writes.push((key.to_vec(), self.slots.get(key).cloned()));
        self.version += 1;
        let version = self.version;
        let slot = self
            .slots
            .entry(key.to_vec())
            .or_insert(Slot { data: empty, version });
        slot.version = version;
        &mut slot.data
    }

    pub(super) fn remember(&mut self, writes: Vec<(Bytes, Option<Slot>)>) {
        if !writes.is_empty() {
            self.undo.push_back(writes);
            if self.undo.len() > HISTORY {
                self.undo.pop_front();
            }
        }
    }

    pub(super) fn execute(&mut self, args: &Args, writes: &mut Vec<(Bytes, Option<Slot>)>) -> Value {
        let name = String::from_utf8_lossy(&args[0]).into_owned();
        match name.as_str() {
            "GET" => match self.slots.get(&args[1]).map(|s| &s.data) {
                Some(Data::Text(text)) => bulk(text),
                None => Value::Nil,
                Some(_) => error("WRONGTYPE"),
            },
            "SET" => {
                *self.change(&args[1], Data::Text(Bytes::new()), writes) = Data::Text(args[2].clone());
                Value::Okay
            }
            "HSET" => self.hset(args, writes),
            "HDEL" => self.hdel(args, writes),
            "HGETALL" => Value::Array(self.pairs(&args[1])),
            "HVALS" => Value::Array(self.pairs(&args[1]).into_iter().skip(1).step_by(2).collect()),
            "HSCAN" => Value::Array(vec![bulk(b"0"), Value::Array(self.pairs(&args[1]))]),
            "ZADD" => self.zadd(args, writes),
            "ZREM" => self.zrem(args, writes),
            "ZRANGEBYSCORE" => self.zrange(args),
            "UNLINK" => {
                for key in &args[1..] {
                    writes.push((key.clone(), self.slots.remove(key)));
                }
                Value::Int(1)
            }
            other => panic!("the model does not know {other}"),
        }
    }

    fn pairs(&self, key: &[u8]) -> Vec<Value> {
        match self.slots.get(key).map(|s| &s.data) {
            Some(Data::Hash(hash)) => hash.iter().flat_map(|(f, v)| [bulk(f), bulk(v)]).collect(),
            _ => Vec::new(),
        }
    }

    fn hset(&mut self, args: &Args, writes: &mut Vec<(Bytes, Option<Slot>)>) -> Value {
        let Data::Hash(hash) = self.change(&args[1], Data::Hash(BTreeMap::new()), writes) else {
            return error("WRONGTYPE");
        };
        for pair in args[2..].chunks(2) {
            hash.insert(pair[0].clone(), pair[1].clone());
        }
        Value::Int(1)
    }

    fn hdel(&mut self, args: &Args, writes: &mut Vec<(Bytes, Option<Slot>)>) -> Value {
        let Data::Hash(hash) = self.change(&args[1], Data::Hash(BTreeMap::new()), writes) else {
            return error("WRONGTYPE");
        };
        for field in &args[2..] {
            hash.remove(field);
        }
        if hash.is_empty() {
            self.slots.remove(&args[1]);
        }
        Value::Int(1)
    }

    fn zadd(&mut self, args: &Args, writes: &mut Vec<(Bytes, Option<Slot>)>) -> Value {
        let Data::Sorted(set) = self.change(&args[1], Data::Sorted(BTreeMap::new()), writes) else {
            return error("WRONGTYPE");
        };
        for pair in args[2..].chunks(2) {
            set.insert(pair[1].clone(), number(&pair[0]));
        }
        Value::Int(1)
    }

    fn zrem(&mut self, args: &Args, writes: &mut Vec<(Bytes, Option<Slot>)>) -> Value {
        let Data::Sorted(set) = self.change(&args[1], Data::Sorted(BTreeMap::new()), writes) else {
            return error("WRONGTYPE");
        };
        for member in &args[2..] {
            set.remove(member);
        }
        if set.is_empty() {
            self.slots.remove(&args[1]);
        }
        Value::Int(1)
    }

    fn zrange(&self, args: &Args) -> Value {
        let Some(Data::Sorted(set)) = self.slots.get(&args[1]).map(|s| &s.data) else {
            return Value::Array(Vec::new());
        };
        let above = match args[2].as_slice() {
            b"-inf" => i64::MIN,
            [b'(', rest @ ..] => number(rest) + 1,
            from => number(from),
        };
        let to = number(&args[3]);
        let has = |word: &str| args[4..].iter().any(|a| a == word.as_bytes());
        let mut found: Vec<(i64, &Bytes)> = set
            .iter()
            .filter(|(_, score)| **score >= above && **score <= to)
            .map(|(member, score)| (*score, member))
            .collect();
        found.sort_unstable();
        if has("LIMIT") {
            found.truncate(usize::try_from(number(&args[6])).unwrap());
        }
        let scores = has("WITHSCORES");
        Value::Array(
            found
                .into_iter()
                .flat_map(|(score, member)| {
                    let score = scores.then(|| bulk(score.to_string().as_bytes()));
                    [Some(bulk(member)), score].into_iter().flatten()
                })
                .collect(),
        )
    }
}

pub(super) fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

pub(super) fn bulk(text: &[u8]) -> Value {
    Value::BulkString(text.to_vec())
}

pub(super) fn error(text: &str) -> Value {
    redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap()
}
