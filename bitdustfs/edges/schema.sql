-- The catalog, format 8: every table and column with meaning, unit and invariant.
--
-- r_… tables are replicated: their rows go to the suppliers as deltas and snapshots, and come back on recovery.
-- l_… tables are local: they speak of this machine's spool, and of how the replicated tables get to the suppliers.
-- They are left out of snapshots.
--
-- Replicated tables have explicit keys and neither triggers nor cascades, because SQLite's session extension, which
-- records their changes, needs the first and breaks on the others. No index is UNIQUE beside a key: a changeset is
-- applied in no particular order.
--
-- Generations. A row with `born` and `died` is part of every generation g with born <= g < died. A live row has
-- died = 9223372036854775807 (2^63 - 1). A row that the newest snapshot (r_snapshot) has is never changed: it is closed
-- (died = current) and, if it goes on, inserted anew (born = current). Any other is changed or deleted in place. So a
-- snapshot is one number, and taking one costs nothing. No row is ever born and closed in the same generation, and
-- every closed row is part of a generation that a row of r_snapshot keeps, also one that is `gone`.
--
-- Booleans do not occur; times are nanoseconds since 1970 UTC; ids are positive and never used twice.

PRAGMA application_id = 0x42446673; -- "BDfs"
PRAGMA user_version = 8;

-- Counters and sums.
CREATE TABLE r_counter (
    name  TEXT    NOT NULL PRIMARY KEY, -- ino, cookie, chunk, block, supplier: the next number that was never given out
                                        -- generation: the current one
                                        -- inodes: how many live rows r_inode has; file_bytes: sum of the sizes of those
                                        -- that are regular files
    value INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

INSERT INTO r_counter VALUES
    ('ino', 2), -- 1 is the root of the volume
    ('cookie', 16), -- 1 … 15 are for names that no row has, such as "." and ".."
    ('chunk', 1), -- 0 is the hole
    ('block', 1),
    ('supplier', 1),
    ('generation', 1),
    ('inodes', 0),
    ('file_bytes', 0);

-- Named values of the volume: its id, scope, suite, code, how many snapshots it keeps.
CREATE TABLE r_value (
    key   TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID, STRICT;

-- Snapshots of the volume: generations that are kept.
CREATE TABLE r_snapshot (
    generation INTEGER NOT NULL PRIMARY KEY, -- it shows the rows of this one
    name       TEXT    NOT NULL, -- as a name of a file; of those that are not gone, no two have the same
    made_ns    INTEGER NOT NULL, -- wall time
    kind       INTEGER NOT NULL, -- 1: made by a person, 2: made by itself, and thinned by age, 3: the tree of a head on
                                 -- another line, 4: the same, and not all of it is here yet
    gone       INTEGER NOT NULL  -- 1: deleted, and closed rows that only it needs are taken away; then this one goes
) STRICT;

-- Inodes. A regular file's size and mtime are those of its last published version; live ones are in l_file.
CREATE TABLE r_inode (
    ino      INTEGER NOT NULL, -- 1 is the root
    born     INTEGER NOT NULL, -- generation
    died     INTEGER NOT NULL, -- generation
    mode     INTEGER NOT NULL, -- type and permission bits, as st_mode
    uid      INTEGER NOT NULL,
    gid      INTEGER NOT NULL,
    nlink    INTEGER NOT NULL, -- as stat shows it
    size     INTEGER NOT NULL, -- bytes; of a directory its number of names
    atime_ns INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    k        INTEGER NOT NULL, -- code of new blocks: any k of n fragments restore one. 1 <= k <= n <= 255, or both 0: the volume's
    n        INTEGER NOT NULL,
    version  INTEGER NOT NULL, -- how often a regular file was published; 0: unborn
    rdev     INTEGER NOT NULL, -- of a device, else 0
    target   BLOB    NOT NULL, -- of a symlink, else empty
    PRIMARY KEY (ino, born)
) WITHOUT ROWID, STRICT;
CREATE INDEX r_inode_dead ON r_inode (died) WHERE died <> 9223372036854775807; -- what snapshots alone have

-- Names. Kept in cookie order, so that reading a directory is one walk.
CREATE TABLE r_name (
    parent     INTEGER NOT NULL, -- ino of the directory
    cookie     INTEGER NOT NULL, -- position in the directory, unique in the volume, the same for the name's whole life
    born       INTEGER NOT NULL, -- generation
    died       INTEGER NOT NULL, -- generation
    name       BLOB    NOT NULL, -- 1 … 255 bytes, no "/" and no NUL; at most one live row for (parent, name)
    ino        INTEGER NOT NULL, -- what it shows
    superseded INTEGER NOT NULL, -- published inode that it showed before, kept until ino is published; 0: none
    PRIMARY KEY (parent, cookie, born)
) WITHOUT ROWID, STRICT;
CREATE INDEX r_name_by_name ON r_name (parent, name); -- lookup
CREATE INDEX r_name_by_ino ON r_name (ino); -- the names of an inode; orphans
CREATE INDEX r_name_by_superseded ON r_name (superseded) WHERE superseded <> 0; -- orphans
CREATE INDEX r_name_dead ON r_name (died) WHERE died <> 9223372036854775807; -- what snapshots alone have

-- Extended attributes of the user namespace.
CREATE TABLE r_xattr (
    ino   INTEGER NOT NULL,
    name  BLOB    NOT NULL, -- with its namespace, e.g. user.colour
    born  INTEGER NOT NULL, -- generation
    died  INTEGER NOT NULL, -- generation
    value BLOB    NOT NULL,
    PRIMARY KEY (ino, name, born)
) WITHOUT ROWID, STRICT;
CREATE INDEX r_xattr_dead ON r_xattr (died) WHERE died <> 9223372036854775807; -- what snapshots alone have

-- The chunk map of published versions. Live rows of one inode never overlap. A missing index below the size is an
-- error of the catalog, never a hole.
-- Rows behind the size are of a version to come, which may never be published (core/laid.py): nobody reads them.
CREATE TABLE r_map (
    ino   INTEGER NOT NULL,
    idx   INTEGER NOT NULL, -- first chunk index of the row, from 0, in units of CHUNK_BYTES of the file
    born  INTEGER NOT NULL, -- generation
    died  INTEGER NOT NULL, -- generation
    count INTEGER NOT NULL, -- how many indexes the row speaks of; 1 unless it is a hole
    chunk INTEGER NOT NULL, -- r_chunk.chunk; 0: a hole
    PRIMARY KEY (ino, idx, born)
) WITHOUT ROWID, STRICT;
CREATE INDEX r_map_by_chunk ON r_map (chunk) WHERE chunk <> 0; -- which files, of any generation, have a chunk
CREATE INDEX r_map_dead ON r_map (died) WHERE died <> 9223372036854775807; -- what snapshots alone have

-- Chunks: the level between maps and blocks, so that compaction and re-encoding change one row for all generations.
CREATE TABLE r_chunk (
    chunk       INTEGER NOT NULL PRIMARY KEY, -- 2^62 and above: it came with another line, and deduplication never meets it
    fingerprint BLOB    NOT NULL, -- 32 bytes: keyed BLAKE3 of the plaintext
    block       INTEGER NOT NULL, -- r_block.block
    slot        INTEGER NOT NULL, -- place in the block, from 0; the nonce
    at          INTEGER NOT NULL, -- bytes from the start of the block to the sealed chunk
    length      INTEGER NOT NULL  -- bytes of plaintext, 1 … CHUNK_BYTES; the rest of its span in the file is zeros
) STRICT;
CREATE INDEX r_chunk_by_fingerprint ON r_chunk (fingerprint); -- deduplication
CREATE INDEX r_chunk_by_block ON r_chunk (block); -- repair, compaction

-- Blocks that at least k suppliers acknowledged (invariant I4).
CREATE TABLE r_block (
    block    INTEGER NOT NULL PRIMARY KEY,
    held     INTEGER NOT NULL, -- how many different idx of r_fragment are in state 1; kept equal by the same change
    live     INTEGER NOT NULL, -- bytes of plaintext in the slots that r_chunk names; kept equal by the same change
    k        INTEGER NOT NULL, -- fixed for life
    n        INTEGER NOT NULL, -- the wish: how many different fragments are to be held; it may change
    suite    INTEGER NOT NULL, -- 1: AES-256-GCM, 2: ChaCha20-Poly1305
    scope    INTEGER NOT NULL, -- what shares one block key
    length   INTEGER NOT NULL, -- bytes with padding, before coding
    block_id BLOB    NOT NULL, -- 32 random bytes
    roots    BLOB    NOT NULL  -- 32 bytes for each fragment that was ever made, from index 0 on: k of them at least.
                               -- More than n where n was lowered, fewer where it was raised and nothing is made yet
) STRICT;
CREATE INDEX r_block_wanting ON r_block (held - k) WHERE held < n; -- the repair queue, most urgent first
CREATE INDEX r_block_by_health ON r_block (k, n, held); -- the histogram of `status`
CREATE INDEX r_block_dead ON r_block (block) WHERE live = 0; -- release
CREATE INDEX r_block_sparse ON r_block (block) WHERE live * 2 < length AND live > 0; -- compaction
CREATE INDEX r_block_small ON r_block (live) WHERE live < 1048576; -- compaction

-- Fragments, at whom and in what state.
CREATE TABLE r_fragment (
    block    INTEGER NOT NULL,
    idx      INTEGER NOT NULL, -- 0 … 254; below k: a piece of the block itself
    supplier INTEGER NOT NULL, -- r_supplier.supplier
    state    INTEGER NOT NULL, -- 1 held, 2 lost, 3 wanted, 4 absent: held, at a supplier that is lost
    PRIMARY KEY (block, idx, supplier)
) WITHOUT ROWID, STRICT;
CREATE INDEX r_fragment_by_supplier ON r_fragment (supplier, state, block); -- a supplier that is lost, or comes back; audits

-- Suppliers, also candidates and those that were given up.
CREATE TABLE r_supplier (
    supplier           INTEGER NOT NULL PRIMARY KEY,
    node               BLOB    NOT NULL, -- 32 bytes: node id
    owner              BLOB    NOT NULL, -- 32 bytes: owner id
    label              TEXT    NOT NULL, -- what the person sees
    address            TEXT    NOT NULL, -- ADDR:PORT that answered last
    contract           BLOB    NOT NULL, -- signed for both
    capacity_bytes     INTEGER NOT NULL, -- by contract
    capacity_fragments INTEGER NOT NULL,
    standing           INTEGER NOT NULL  -- 1 candidate, 2 hired, 3 lost, 4 fired, 5 leaving, 6 missing: lost while it was leaving
) STRICT;

-- What only this machine knows of a regular file. No row: the published inode is the whole truth.
CREATE TABLE l_file (
    ino            INTEGER NOT NULL PRIMARY KEY,
    size           INTEGER NOT NULL, -- bytes, live
    mtime_ns       INTEGER NOT NULL, -- live
    ctime_ns       INTEGER NOT NULL, -- live
    spool_end      INTEGER NOT NULL, -- bytes; positions of the spool file from here on are free. 0: no spool file
    dirty_since_ns INTEGER NOT NULL, -- wall time of the oldest unpublished change; 0: none
    hard_until     INTEGER NOT NULL, -- spool bytes below were synced: they survive a power loss
    summed_until   INTEGER NOT NULL, -- spool bytes below have sums in l_sum; hard_until <= summed_until <= spool_end
    hard_size      INTEGER NOT NULL  -- bytes: the size of the file after a power loss that takes what is not hard
) STRICT;

-- Which bytes of a file the spool answers for. Rows of one inode and layer never overlap.
CREATE TABLE l_extent (
    ino   INTEGER NOT NULL,
    layer INTEGER NOT NULL, -- 0: what is read; 1: hard bytes or zeros beneath dirty ones that are not hard
    start INTEGER NOT NULL, -- first byte of the file
    stop  INTEGER NOT NULL, -- byte after the last; above start
    at    INTEGER NOT NULL, -- position in the inode's spool file; 0 for zeros
    hold  INTEGER NOT NULL, -- 1 dirty, 2 dirty zeros without bytes, 3 clean
    PRIMARY KEY (ino, layer, start)
) WITHOUT ROWID, STRICT;

-- Check sums of spool bytes (XXH3, 64 bits, big-endian), in units of SUM_UNIT_BYTES of the inode's spool file.
CREATE TABLE l_sum (
    ino  INTEGER NOT NULL,
    row  INTEGER NOT NULL, -- the row speaks of units 64 * row … 64 * row + 63
    sums BLOB    NOT NULL, -- 8 bytes for each unit; of a unit that summed_until cuts: of its bytes below
    PRIMARY KEY (ino, row)
) WITHOUT ROWID, STRICT;

-- The whole content of small files, so that one commit makes data and name durable.
CREATE TABLE l_inline (
    ino     INTEGER NOT NULL PRIMARY KEY,
    content BLOB    NOT NULL, -- up to INLINE_BYTES
    sum     BLOB    NOT NULL  -- its check sum, 8 bytes
) STRICT;

-- Named values of this machine: the boot in which it was mounted last.
CREATE TABLE l_value (
    key   TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID, STRICT;

-- Blocks on their way: what they may have left at suppliers, noted before the first byte leaves. And fragments of
-- other blocks that are made again, or brought elsewhere: each is noted as if it were a block.
CREATE TABLE l_upload (
    block_id BLOB    NOT NULL, -- 32 random bytes; of a fragment its name
    place    INTEGER NOT NULL, -- order of the fragments, from 0; -1: the block itself, so that one without fragments is known
    supplier INTEGER NOT NULL, -- r_supplier.supplier; 0 at place -1
    name     BLOB    NOT NULL, -- fragment name, 32 bytes; empty at place -1
    PRIMARY KEY (block_id, place)
) WITHOUT ROWID, STRICT;

-- Chunks that may have lost their last row in r_map, or never had one.
CREATE TABLE l_loose (
    chunk INTEGER NOT NULL PRIMARY KEY -- r_chunk.chunk
) STRICT;

-- Fragments that nobody needs once a change is safe: what is let go at suppliers.
CREATE TABLE l_release (
    supplier INTEGER NOT NULL, -- r_supplier.supplier
    name     BLOB    NOT NULL, -- fragment name, 32 bytes
    change   INTEGER NOT NULL, -- number of the change that made it unneeded; 0: no head ever named it
    PRIMARY KEY (supplier, name)
) WITHOUT ROWID, STRICT;
CREATE INDEX l_release_by_change ON l_release (supplier, change); -- what may go now

-- What suppliers hold for us: acknowledged fragments, by our own count. Local, because storing the replica changes it.
CREATE TABLE l_usage (
    supplier  INTEGER NOT NULL PRIMARY KEY, -- r_supplier.supplier
    bytes     INTEGER NOT NULL,
    fragments INTEGER NOT NULL
) STRICT;

-- What commits changed in the replicated tables, until a delta holds it. Written by the same transaction.
CREATE TABLE l_outbox (
    no      INTEGER NOT NULL PRIMARY KEY, -- from 1, without gaps, never used twice
    changes BLOB    NOT NULL -- a changeset of SQLite's session extension, never empty
) STRICT;

-- Numbers that outlive the rows they were given to.
CREATE TABLE l_counter (
    name  TEXT    NOT NULL PRIMARY KEY, -- change: the newest l_outbox.no that was dropped; block: the newest -l_block.block
    value INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- Local blocks: the catalog's own way to the suppliers. Columns as in r_block; numbers are negative.
CREATE TABLE l_block (
    block    INTEGER NOT NULL PRIMARY KEY,
    held     INTEGER NOT NULL, -- how many different idx of l_fragment are in state 1; kept equal by the same change
    k        INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    suite    INTEGER NOT NULL,
    scope    INTEGER NOT NULL,
    length   INTEGER NOT NULL,
    block_id BLOB    NOT NULL,
    roots    BLOB    NOT NULL
) STRICT;

-- Fragments of local blocks. Columns as in r_fragment.
CREATE TABLE l_fragment (
    block    INTEGER NOT NULL,
    idx      INTEGER NOT NULL,
    supplier INTEGER NOT NULL,
    state    INTEGER NOT NULL,
    PRIMARY KEY (block, idx, supplier)
) WITHOUT ROWID, STRICT;
CREATE INDEX l_fragment_by_supplier ON l_fragment (supplier, state, block);

-- Blocks that are to be coded anew: what in them wishes another k is written into other blocks.
CREATE TABLE l_recode (
    block INTEGER NOT NULL PRIMARY KEY -- r_block.block
) STRICT;

-- What this machine saw of its suppliers, so that a restart forgets no absence.
CREATE TABLE l_observation (
    supplier INTEGER NOT NULL PRIMARY KEY, -- r_supplier.supplier
    away_ms  INTEGER NOT NULL, -- for how long it has not answered, as far as this machine was there to see it
    since_ns INTEGER NOT NULL -- wall time since when it has answered, or not: for people
) STRICT;

-- How the audits of suppliers ended.
CREATE TABLE l_audit (
    supplier INTEGER NOT NULL PRIMARY KEY, -- r_supplier.supplier
    proven   INTEGER NOT NULL, -- fragments of which what was asked for was right
    wrong    INTEGER NOT NULL, -- fragments that it denied, or had wrong
    last_ns  INTEGER NOT NULL -- wall time of the last answer
) STRICT;

-- What was seen of suppliers, the older the less it counts (core/score).
CREATE TABLE l_track (
    supplier    INTEGER NOT NULL PRIMARY KEY, -- r_supplier.supplier
    present_s   REAL    NOT NULL, -- for how long it answered, as far as we were there to see it
    absent_s    REAL    NOT NULL, -- and did not
    proven      REAL    NOT NULL, -- fragments of which an audit saw what was right
    wrong       REAL    NOT NULL, -- that it denied, or had wrong
    bytes_per_s REAL    NOT NULL -- the fastest that a fragment moved; 0: none did
) STRICT;

-- Absences that ended.
CREATE TABLE l_absence (
    supplier INTEGER NOT NULL, -- r_supplier.supplier
    ended_ns INTEGER NOT NULL, -- wall time
    away_ms  INTEGER NOT NULL, -- as in l_observation
    PRIMARY KEY (supplier, ended_ns)
) WITHOUT ROWID, STRICT;

-- What was decided about suppliers, and the numbers that decided it: for people. The oldest are forgotten.
CREATE TABLE l_verdict (
    no         INTEGER NOT NULL PRIMARY KEY, -- in the order in which it was decided
    supplier   INTEGER NOT NULL, -- r_supplier.supplier
    rule       INTEGER NOT NULL, -- 1 silence, 2 return, 3 replacement, 4 hire, 5 leave, 6 empty, 7 fire: see model.Rule
    at_ns      INTEGER NOT NULL, -- wall time
    away_ms    INTEGER NOT NULL, -- as in l_observation; here and below 0 where it had no say
    wait_ms    INTEGER NOT NULL, -- how long it was waited for
    longest_ms INTEGER NOT NULL, -- its longest absence that still said something
    spare      INTEGER NOT NULL, -- held fragments minus k of the worst block, without those who did not answer
    missing    INTEGER NOT NULL, -- how many suppliers were missing
    instead    INTEGER NOT NULL, -- in whose place it was hired: r_supplier.supplier; 0: nobody's
    fragments  INTEGER NOT NULL, -- that it held, by our count
    bytes      INTEGER NOT NULL -- of them
) STRICT;

-- Deltas: runs of changes that are, or soon will be, at the suppliers.
CREATE TABLE l_delta (
    first         INTEGER NOT NULL, -- l_outbox.no of its first change
    part          INTEGER NOT NULL, -- from 0; above 0 only where one change is too long for a block
    last          INTEGER NOT NULL, -- l_outbox.no of its last change
    block         INTEGER NOT NULL, -- l_block.block
    content_bytes INTEGER NOT NULL, -- of what is sealed in the block
    content       BLOB    NOT NULL, -- the changeset of them all, or a part of it, compressed
    PRIMARY KEY (first, part)
) STRICT;

-- Pieces of snapshots that are at the suppliers, by content: a snapshot sends only what the last one had not.
CREATE TABLE l_image (
    print  BLOB    NOT NULL PRIMARY KEY, -- 32 bytes: hash of the piece
    block  INTEGER NOT NULL, -- l_block.block
    slot   INTEGER NOT NULL, -- place in the block, from 0; the nonce
    at     INTEGER NOT NULL, -- bytes from the start of the block to the sealed piece
    length INTEGER NOT NULL -- bytes of plaintext
) WITHOUT ROWID, STRICT;
CREATE INDEX l_image_by_block ON l_image (block); -- a block that is dropped

-- Links of heads: what shows a supplier that a new head descends from the one it has.
CREATE TABLE l_link (
    version INTEGER NOT NULL PRIMARY KEY, -- of the head
    link    BLOB    NOT NULL
) STRICT;
