-------------------------------- MODULE Moxy --------------------------------
(***************************************************************************)
(* The lifecycle of docs/semantics.md, written a second time and in        *)
(* another language. TLC explores it; for the scopes "shared" and "shared, *)
(* three tasks" of spec/explore.py it must find exactly as many states and *)
(* edges as the real decide and apply have (tests/spec/test_tlc.py).       *)
(*                                                                         *)
(* One queue, Tasks tasks. Time is relative: left[t] is how long from now, *)
(* in ms, and what is overdue stays at 0, in its order. A void lease is no *)
(* element of q.held, so no action is enabled by it: that is I4 here.      *)
(* Not here: tokens, TTLs, dedup, pause, bound leases, EXTEND, the policy. *)
(*                                                                         *)
(* An edge is a distinct triple (state, action, other state); every action *)
(* is guarded so that it changes something.                                *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS Tasks, MaxAttempts, LeaseMs, Kinds, NackDelays
\* Kinds: how a task can be enqueued, as records of a priority and a delay.

KindsShared == [priority : {0, 1}, delay : {0, 1}]

VARIABLE q
\* q.state, q.priority, q.attempts, q.left: one value for each task, in the order of the enqueues.
\* q.line: all tasks by place. q.held, q.later, q.dead: the orders of leases, of due times, of deaths.

T == 1..Tasks

Init == q = [state    |-> [t \in T |-> "new"],
             priority |-> [t \in T |-> 0],
             attempts |-> [t \in T |-> 0],
             left     |-> [t \in T |-> 0],
             line |-> <<>>, held |-> <<>>, later |-> <<>>, dead |-> <<>>]

In(s) == {t \in T : q.state[t] = s}
Range(seq) == {seq[i] : i \in 1..Len(seq)}
Without(seq, t) == SelectSeq(seq, LAMBDA u : u # t)
Seat(seq, t) == CHOOSE i \in 1..Len(seq) : seq[i] = t

\* seq with t put after all those that Before says come before it.
Put(seq, t, Before(_)) ==
    LET n == Cardinality({i \in 1..Len(seq) : Before(seq[i])})
    IN  SubSeq(seq, 1, n) \o <<t>> \o SubSeq(seq, n + 1, Len(seq))

-----------------------------------------------------------------------------
\* What happens to one task, from a queue to a queue.

Ready(w, t) == [w EXCEPT !.state[t] = "ready", !.left[t] = 0]

Scheduled(w, t, ms) ==
    LET earlier(u) == \/ w.left[u] < ms
                      \/ w.left[u] = ms /\ Seat(w.line, u) < Seat(w.line, t)
    IN  [w EXCEPT !.state[t] = "scheduled", !.left[t] = ms, !.later = Put(w.later, t, earlier)]

Dead(w, t) == [w EXCEPT !.state[t] = "dead", !.left[t] = 0, !.dead = Append(w.dead, t)]

Gone(w, t) == [w EXCEPT !.state[t] = "gone", !.priority[t] = 0, !.attempts[t] = 0, !.left[t] = 0,
                        !.line = Without(w.line, t)]

Unheld(w, t) == [w EXCEPT !.held = Without(w.held, t)]

Charged(w, t) == [w EXCEPT !.attempts[t] = @ + 1]

Requeued(w, t, ms) == IF w.attempts[t] >= MaxAttempts THEN Dead(w, t)
                      ELSE IF ms > 0 THEN Scheduled(w, t, ms) ELSE Ready(w, t)

Leased(w, t) ==
    LET earlier(u) == w.left[u] <= LeaseMs   \* among equal deadlines the older token is first
    IN  [w EXCEPT !.state[t] = "processing", !.left[t] = LeaseMs, !.held = Put(w.held, t, earlier)]

\* Due work: leases by deadline and token, then tasks that mature.
RECURSIVE Due(_)
Due(w) ==
    IF w.held # <<>> /\ w.left[Head(w.held)] = 0
    THEN LET t == Head(w.held) IN Due(Requeued(Charged(Unheld(w, t), t), t, 0))
    ELSE IF w.later # <<>> /\ w.left[Head(w.later)] = 0
    THEN LET t == Head(w.later) IN Due(Ready([w EXCEPT !.later = Tail(w.later)], t))
    ELSE w

-----------------------------------------------------------------------------
\* What can happen.

\* The actions below are conjunctions or choices, none is a bare Becomes: TLC names an edge after the last definition
\* that it opened.
Becomes(w) == q # w /\ q' = w

Enqueue == \E kind \in Kinds :
    /\ In("new") # {}
    /\ LET t == CHOOSE t \in In("new") : \A u \in In("new") : t <= u
           w == [q EXCEPT !.priority[t] = kind.priority, !.line = Append(q.line, t)]
       IN  Becomes(IF kind.delay > 0 THEN Scheduled(w, t, kind.delay) ELSE Ready(w, t))

First(w, ready) == CHOOSE t \in ready : \A u \in ready \ {t} :
    \/ w.priority[t] > w.priority[u]
    \/ w.priority[t] = w.priority[u] /\ Seat(w.line, t) < Seat(w.line, u)

Fetch == \E w \in {Due(q)} :
    LET ready == {t \in T : w.state[t] = "ready"}
    IN  Becomes(IF ready = {} THEN w ELSE Leased(w, First(w, ready)))

Ack == \E t \in In("processing") : Becomes(Gone(Unheld(q, t), t))

Nack == \E t \in In("processing") :
    LET w == Charged(Unheld(q, t), t)
    IN  \/ \E ms \in NackDelays : Becomes(Requeued(w, t, ms))
        \/ Becomes(Dead(w, t))

Release == \E t \in In("processing") : Becomes(Ready(Unheld(q, t), t))

Redrive == /\ q.dead # <<>>
           /\ LET t == Head(q.dead)
                  w == [q EXCEPT !.dead = Tail(q.dead), !.line = Append(Without(q.line, t), t), !.attempts[t] = 0]
              IN  Becomes(Ready(w, t))

RECURSIVE Purged(_)
Purged(w) == IF w.dead = <<>> THEN w ELSE Purged(Gone([w EXCEPT !.dead = Tail(w.dead)], Head(w.dead)))
Purge == q.dead # <<>> /\ Becomes(Purged(q))

Tick == \E w \in {Due(q)} : Becomes(w)

Advance == /\ \E t \in T : q.left[t] > 0
           /\ Becomes([q EXCEPT !.left = [t \in T |-> IF q.left[t] > 0 THEN q.left[t] - 1 ELSE 0]])

Next == Enqueue \/ Fetch \/ Ack \/ Nack \/ Release \/ Redrive \/ Purge \/ Tick \/ Advance

\* Weak fairness, with what enables each action in words: TLC takes far longer to find that out itself (ENABLED).
\* FairlyEnabled says that the words are right.
CanTick == \E t \in In("processing") \union In("scheduled") : q.left[t] = 0
CanAdvance == \E t \in T : q.left[t] > 0
CanFetch == CanTick \/ In("ready") # {}
Fair == /\ []<>~CanTick \/ []<><<Tick>>_q
        /\ []<>~CanFetch \/ []<><<Fetch>>_q
        /\ []<>~CanAdvance \/ []<><<Advance>>_q

Spec == Init /\ [][Next]_q /\ Fair

-----------------------------------------------------------------------------
\* Safety.

\* I1: every task that was enqueued is in one state, and in exactly the orders of that state.
Conservation ==
    /\ Range(q.line) = T \ (In("new") \union In("gone"))
    /\ Range(q.held) = In("processing")
    /\ Range(q.later) = In("scheduled")
    /\ Range(q.dead) = In("dead")

\* I2: no task is in an order twice, so none has two leases.
OneLease == \A seq \in {q.line, q.held, q.later, q.dead} : Len(seq) = Cardinality(Range(seq))

\* I7, its ground: deadlines and due times are in order.
Sorted == \A seq \in {q.held, q.later} : \A i \in 1..Len(seq) - 1 : q.left[seq[i]] <= q.left[seq[i + 1]]

\* I8 and I9: who waits or is held has an attempt left; who is dead has used one.
Attempts == /\ \A t \in In("ready") \union In("scheduled") \union In("processing") : q.attempts[t] < MaxAttempts
            /\ \A t \in In("dead") : q.attempts[t] \in 1..MaxAttempts

FairlyEnabled == /\ CanTick = (Due(q) # q)
                 /\ (\E t \in T : Due(q).state[t] = "ready") => CanFetch

\* I5: gone is gone.
NeverBack == [][\A t \in T : q.state[t] = "gone" => q'.state[t] = "gone"]_q

\* I6: time takes no lease away before its deadline.
NoEarlyExpiry == [][Tick \/ Advance => \A t \in In("processing") : q.left[t] > 0 => q'.state[t] = "processing"]_q

\* Order: a task keeps its place, unless it is redriven.
KeepsItsPlace ==
    [][Redrive \/ \A t, u \in Range(q.line) \intersect Range(q'.line) :
                     Seat(q.line, t) < Seat(q.line, u) => Seat(q'.line, t) < Seat(q'.line, u)]_q

-----------------------------------------------------------------------------
\* Liveness, when time passes, due work is done and somebody fetches.

Ended == In("ready") \union In("scheduled") \union In("processing") = {}

\* L1 to L3: if nobody gives back or redrives for ever, the queue drains, again and again.
Drains == <>[][~(Release \/ Redrive)]_q => []<>Ended

\* L2: no lease is for ever, whatever anybody does.
LeasesEnd == \A t \in T : q.state[t] = "processing" ~> q.state[t] # "processing"
=============================================================================
