// Column sums of a softmax whose scores come from matrix tiles of bf16 (AMX). Included by kernel.h.
//
// A float is a sum of three bf16, of 8 digits each. Of the nine products of two such sums the six largest are added up
// in float; the others are below 2^-23 of the product. What is bf16 already needs one product.
// Infinity has no parts, and tiles take denormals for 0. Rows with a number beyond 2^40, and scales beyond 2^30, are
// therefore left to the vectors; of all others what is lost moves no score by more than 2^-40.

namespace avcl::AVCL_ISA {

constexpr int kSide = 16, kDeep = 32;     // rows of a tile, and numbers of bf16 in each
constexpr int kTile = kSide * kDeep;      // numbers in a tile
constexpr int kStrip = 2 * kSide;         // queries, and keys, that are multiplied at a time
constexpr int kParts = 3, kProducts = 6;  // of floats
constexpr int kStages = 3;                // strips at work
constexpr uint32_t kBeyond = 0x53800000;  // the bits of 2^40

struct alignas(64) TileShapes {
  uint8_t palette = 1, rest[15] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {kSide, kSide, kSide, kSide, kSide, kSide, kSide, kSide};
};
constexpr TileShapes kShapes;

// A thread's tiles: set up, and given back, as their state is a burden whenever threads are switched.
struct Tiles {
  Tiles() { _tile_loadconfig(&kShapes); }
  ~Tiles() { _tile_release(); }
};

// What sanitizers see of a tile that is read or written: they do not know the instructions.
inline void watch([[maybe_unused]] const void* tile, [[maybe_unused]] int64_t stride) {
#ifdef __SANITIZE_ADDRESS__
  for (int row = 0; row < kSide; ++row)
    for (int at = 0; at < 64; at += 63) (void)*(static_cast<const volatile char*>(tile) + row * stride + at);
#endif
}

// 32 numbers as `parts` rows of bf16, `apart` from each other: each rounds what those before it left.
inline void divide(const float* numbers, int parts, uint16_t* to, int64_t apart) {
  typedef Lanes<float>::U U;
  const U half = U{} + 0x8000u, upper = U{} + 0xFFFF0000u;
  const __m512i odd = (__m512i)(kLane * 0x00040004u + 0x00030001u);  // the upper halves of all
  V<float> left = at(numbers), right = at(numbers + kSide);
  for (int part = 0; part < parts; ++part, to += apart) {
    const U a = ((U)left + half) & upper, b = ((U)right + half) & upper;
    _mm512_store_si512(to, _mm512_permutex2var_epi16((__m512i)a, odd, (__m512i)b));
    left -= (V<float>)a;
    right -= (V<float>)b;
  }
}

// Rows and columns of 16 x 16 pairs of bf16 exchanged: a right factor lies with its depth downwards.
inline void turn(uint16_t* tile) {
  typedef Lanes<float>::U U;
  __m512i rows[kSide];
  AVCL_UNROLL for (int i = 0; i < kSide; ++i) rows[i] = _mm512_load_si512(tile + i * kDeep);
  AVCL_UNROLL for (int bit = 0; bit < 4; ++bit) {
    const uint32_t step = 1u << bit;
    const U set = (kLane >> bit & 1) * (kSide - step);
    const __m512i low = (__m512i)(kLane + set), high = (__m512i)(kLane + step + set);
    AVCL_UNROLL for (uint32_t i = 0; i < kSide; ++i)
      if (!(i & step)) {
        const __m512i a = rows[i], b = rows[i + step];
        rows[i] = _mm512_permutex2var_epi32(a, low, b);
        rows[i + step] = _mm512_permutex2var_epi32(a, high, b);
      }
  }
  AVCL_UNROLL for (int i = 0; i < kSide; ++i) _mm512_store_si512(tile + i * kDeep, rows[i]);
}

// The rows [row, row + 32) below `end`, zeros after it, as tiles (parts, steps, 2); whether none is beyond 2^40.
inline bool pack(const Heads& x, int64_t clip, int64_t head, int64_t row, int64_t end, int64_t depth, int parts,
                 float* numbers, uint16_t* to) {
  typedef Lanes<float>::U U;
  const int64_t steps = padded(depth, kDeep) / kDeep, apart = steps * 2 * kTile;
  U largest = {};
  for (int64_t k = depth; k < steps * kDeep; ++k) numbers[k] = 0;
  for (int r = 0; r < kStrip; ++r) {
    prefetch(x, clip, head, row + r + kAhead, depth);
    if (row + r < end)
      read<float>(x, clip, head, row + r, depth, numbers, 1, 1);
    else
      for (int64_t k = 0; k < depth; ++k) numbers[k] = 0;
    for (int64_t step = 0; step < steps; ++step) {
      const float* here = numbers + step * kDeep;
      for (int lane = 0; lane < kDeep; lane += kSide) {
        const U size = (U)at(here + lane) & 0x7FFFFFFFu;
        largest = size > largest ? size : largest;
      }
      divide(here, parts, to + (step * 2 + r / kSide) * kTile + r % kSide * kDeep, apart);
    }
  }
  return _mm512_cmpgt_epu32_mask((__m512i)largest, _mm512_set1_epi32(kBeyond)) == 0;
}

// 32 queries on their way: scores in blocks (keys / 32, 32, 32), which turn into powers of 2, and what each row needs.
struct Strip {
  float* blocks;
  V<float> largest[kStrip], total[kStrip];
  float shift[kStrip], share[kStrip];

  float* block(int64_t j) { return blocks + j * kStrip; }

  void begin() {
    for (int r = 0; r < kStrip; ++r) largest[r] = splat(-__builtin_inff()), total[r] = V<float>{};
  }

  // Looks for the largest scores in a new block; from there on there are so many keys.
  void look(float* row, int64_t keys) {
    for (int r = 0; r < kStrip; ++r, row += kStrip) {
      for (int64_t j = keys; j < kStrip; ++j) row[j] = -__builtin_inff();
      const V<float> a = at(row), b = at(row + kSide), most = a > b ? a : b;
      largest[r] = most > largest[r] ? most : largest[r];
    }
  }

  void begin_softening(float scale) {
    for (int r = 0; r < kStrip; ++r) shift[r] = -scale * AVCL_ISA::largest<float>(largest[r]);
  }

  // Row r of a block to exp2(scale * (score - largest)).
  void soften(float* row, int r, float scale) {
    V<float>&a = at(row), &b = at(row + kSide);
    a = exp2<float>(mul_add(a, splat(scale), splat(shift[r])));
    b = exp2<float>(mul_add(b, splat(scale), splat(shift[r])));
    total[r] += a + b;
  }

  // The first `rows` rows count.
  void begin_adding(int64_t rows) {
    for (int r = 0; r < kStrip; ++r) share[r] = r < rows ? 1 / sum<float>(total[r]) : 0;
  }

  // Adds a block to the sums of its columns.
  void add(const float* row, float* sums) const {
    V<float> left = at(sums), right = at(sums + kSide);
    for (int r = 0; r < kStrip; ++r, row += kStrip) {
      left = mul_add(at(row), splat(share[r]), left);
      right = mul_add(at(row + kSide), splat(share[r]), right);
    }
    at(sums) = left;
    at(sums + kSide) = right;
  }
};

// Left and right factors (32, 32) of the next products, and the products.
inline void left(const uint16_t* tiles) {
  watch(tiles, 64), watch(tiles + kTile, 64);
  _tile_loadd(4, tiles, 64);
  _tile_loadd(5, tiles + kTile, 64);
}
inline void right(const uint16_t* tiles) {
  watch(tiles, 64), watch(tiles + kTile, 64);
  _tile_loadd(6, tiles, 64);
  _tile_loadd(7, tiles + kTile, 64);
}
inline void add_products() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Scores (32, 32) of packed queries and keys; while the tiles are at work, `beside` is called once for each product.
template <typename Beside>
inline void multiply(const uint16_t* query, const uint16_t* key, int64_t steps, int parts, float* block,
                     const Beside& beside) {
  const int64_t apart = steps * 2 * kTile;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, query += 2 * kTile, key += 2 * kTile) {
    if (parts == kParts) {
      left(query), right(key + 2 * apart), add_products(), beside();
      right(key + apart), add_products(), beside();
      left(query + apart), add_products(), beside();
      right(key), add_products(), beside();
      left(query + 2 * apart), add_products(), beside();
    } else {
      right(key);
    }
    left(query), add_products(), beside();
  }
  constexpr int64_t kRow = kStrip * sizeof(float);
  float* const lower = block + kSide * kStrip;
  watch(block, kRow), watch(block + kSide, kRow), watch(lower, kRow), watch(lower + kSide, kRow);
  _tile_stored(0, block, kRow);
  _tile_stored(1, block + kSide, kRow);
  _tile_stored(2, lower, kRow);
  _tile_stored(3, lower + kSide, kRow);
}

inline size_t tile_scratch(int64_t keys, int64_t depth) {
  const int64_t deep = padded(depth, kDeep), pitch = padded(keys, kStrip);
  return (deep + kStages * kStrip * pitch) * sizeof(float) + kParts * deep * (kStrip + pitch) * sizeof(uint16_t);
}

// Adds the rows [row, end) of one head to the sums, as far as they are fit for tiles; returns the first that is not.
// Three strips are at work: tiles multiply one, vectors soften the one before it and add up the one before that.
inline int64_t by_tiles(const Heads& query, const Heads& key, int64_t clip, int64_t head, int64_t row, int64_t end,
                        int64_t depth, float scale, float* scratch, float* sums) {
  if (!(scale > 0 && scale <= 0x1p30f)) return row;
  const int parts = query.type == Type::kBFloat16 && key.type == Type::kBFloat16 ? 1 : kParts;
  const int64_t deep = padded(depth, kDeep), steps = deep / kDeep, pitch = padded(key.length, kStrip);
  Strip strips[kStages];
  float* const numbers = scratch + kStages * kStrip * pitch;
  uint16_t *queries = reinterpret_cast<uint16_t*>(numbers + deep), *keys = queries + parts * deep * kStrip;
  for (int i = 0; i < kStages; ++i) strips[i].blocks = scratch + i * kStrip * pitch;
  for (int64_t j = 0; j < key.length; j += kStrip) {
    uint16_t* const block = keys + j * parts * deep;
    if (!pack(key, clip, head, j, key.length, depth, parts, numbers, block)) return row;
    for (int64_t tile = 0; tile < 2 * parts * steps; ++tile) turn(block + tile * kTile);
  }
  const int64_t products = steps * (parts == 1 ? 1 : kProducts);
  const int beside = static_cast<int>((kStrip + products - 1) / products);  // rows softened while a product is made
  int64_t count = (end - row + kStrip - 1) / kStrip;
  const Tiles tiles;
  for (int64_t s = 0; s < count + 2; ++s) {
    if (s < count && !pack(query, clip, head, row + s * kStrip, end, depth, parts, numbers, queries)) count = s;
    __asm__ volatile("" ::: "memory");  // GCC does not know that tiles are read from there
    const bool multiplies = s < count, softens = 1 <= s && s <= count, adds = 2 <= s;
    Strip &first = strips[s % 3], &second = strips[(s + 2) % 3], &third = strips[(s + 1) % 3];
    if (multiplies) first.begin();
    if (softens) second.begin_softening(scale);
    if (adds) third.begin_adding(end - row - (s - 2) * kStrip);
    for (int64_t j = 0; j < pitch; j += kStrip) {
      float* const block = second.block(j);
      int r = softens ? 0 : kStrip;
      const auto soften = [&](int last) {
        for (; r < last && r < kStrip; ++r) second.soften(block + r * kStrip, r, scale);
      };
      if (multiplies)
        multiply(queries, keys + j * parts * deep, steps, parts, first.block(j), [&] { soften(r + beside); });
      soften(kStrip);
      if (adds) third.add(third.block(j), sums + j);
      if (multiplies) first.look(first.block(j), key.length - j);
    }
  }
  return row + count * kStrip < end ? row + count * kStrip : end;
}

}  // namespace avcl::AVCL_ISA
