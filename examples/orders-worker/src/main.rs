//! A worker with functions of its own: `charge` takes money, `ship` sends a parcel.
//!
//! Start a stack with `millrace dev`, then this worker with the address of nats-server that `dev` printed:
//!
//! ```sh
//! MILLRACE_NATS_URL=nats://127.0.0.1:<port> target/debug/orders-worker
//! ```
//!
//! A workflow calls the functions by name and version; their steps travel through the queue `orders`:
//!
//! ```yaml
//! do:
//!   - charge:
//!       call: charge:1.0.0@default
//!       with: { order: ${ .order }, cents: 4200 }
//!   - ship:
//!       call: ship:1.0.0@default
//!       with: { order: ${ .order }, parcels: 3 }
//! ```

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex, PoisonError};

use millrace_worker::{Context, Failure, Worker};
use serde::{Deserialize, Serialize};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Worker::from_env("orders")?
        .function("charge:1.0.0", charge)
        .function("ship:1.0.0", ship)
        .run()
        .await
}

#[derive(Debug, Deserialize)]
struct Charge {
    order: String,
    cents: u64,
}

#[derive(Debug, Serialize)]
struct Receipt {
    order: String,
    cents: u64,
    payment: String,
}

/// Takes money once, however often it runs: the idempotency key is the same for every delivery and attempt, and the
/// bank knows it.
async fn charge(ctx: Context, input: Charge) -> Result<Receipt, Failure> {
    if input.cents == 0 {
        // An error of our own: the workflow can catch it by its type.
        return Err(Failure::custom(
            "https://example.com/errors/nothing-to-pay",
            422,
            "the amount is zero",
        ));
    }
    let payment = format!("payment-{}", ctx.idempotency_key());
    bank_transfer(&payment);
    Ok(Receipt {
        order: input.order,
        cents: input.cents,
        payment,
    })
}

#[derive(Debug, Deserialize)]
struct Ship {
    order: String,
    parcels: u32,
}

#[derive(Debug, Serialize)]
struct Shipment {
    order: String,
    labels: Vec<String>,
}

/// Works in parts: each label is saved, so a worker that takes over after a crash goes on with the next one.
async fn ship(ctx: Context, input: Ship) -> Result<Shipment, Failure> {
    let mut labels: Vec<String> = ctx.saved()?.unwrap_or_default();
    for parcel in labels.len()..input.parcels as usize {
        if ctx.is_cancelled() {
            return Err(Failure::cancelled());
        }
        labels.push(format!("{}-{}", input.order, parcel + 1));
        ctx.checkpoint(&labels).await?;
    }
    Ok(Shipment {
        order: input.order,
        labels,
    })
}

/// Stands for a bank that ignores a payment it has seen.
fn bank_transfer(payment: &str) {
    static SEEN: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(Mutex::default);
    SEEN.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(payment.to_owned());
}

#[cfg(test)]
mod tests {
    use millrace_worker::RawJson;

    use super::*;

    fn context() -> Context {
        Context::detached("test:1.0.0", RawJson::null())
    }

    #[tokio::test]
    async fn the_same_step_is_charged_under_the_same_payment() {
        let charged = async |ctx| {
            charge(
                ctx,
                Charge {
                    order: "o1".into(),
                    cents: 5,
                },
            )
            .await
        };
        let ctx = context();
        let (first, again) = (charged(ctx.clone()).await.unwrap(), charged(ctx).await.unwrap());
        assert_eq!(first.payment, again.payment);
    }

    #[tokio::test]
    async fn shipping_goes_on_where_it_was_left() {
        let ctx = context();
        ctx.checkpoint(&["o1-1"]).await.unwrap();
        let shipment = ship(
            ctx,
            Ship {
                order: "o1".into(),
                parcels: 3,
            },
        )
        .await
        .unwrap();
        assert_eq!(shipment.labels, ["o1-1", "o1-2", "o1-3"]);
    }
}
