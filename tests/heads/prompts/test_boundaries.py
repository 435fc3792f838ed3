"""Where a needle may go: behind sentences in any script, quotes, brackets, notes and lines; not inside numbers."""

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import heads
from checkpoints.errors import BadPrompt
from heads.prompts.boundaries import places, tokenized

NEEDLE = heads.Needle(
    "The code of the red lantern is amber coral.", "amber coral", "What is the code of the red lantern? The code is"
)
TEXTS = {
    "dialogue": '"The ferry leaves at noon." "Bring the green coat!" "Shall we wait by the mill?" "Nobody came." ',
    "typographic quotes": "“The ferry leaves at noon.” ‘Bring the green coat.’ «Nous attendrons.» „Niemand kam.“ ",
    "French spacing": "« Le bac part à midi. » « Prenez le manteau vert ! » « Personne n'est venu hier. » ",
    "brackets": "(The ferry leaves at noon.) (Bring the green coat.) [Nobody came yesterday.] ",
    "notes": "The ferry leaves at noon.[1] Bring the green coat.[note 2] Nobody came yesterday.³ ",
    "ellipses": "The ferry leaves at noon... Bring the green coat… Nobody came yesterday.... ",
    "markdown": "*The ferry leaves at noon.* **Bring the green coat.** _Nobody came yesterday._ ",
    "code": "def leave(ferry):\n    return ferry.noon(3.14)\n\nfor coat in coats:\n    bring(coat, at=6.02)\n",
    "Chinese": "渡船中午离开。请带上绿色的外套！我们在磨坊旁等吗？昨天没有人来……",
    "Japanese": "「渡し船は正午に出ます。」緑のコートを持ってきてください。昨日は誰も来なかった。",
    "Hindi": "नाव दोपहर को जाती है। हरा कोट लाओ। कल कोई नहीं आया॥ ",
    "Arabic": "تغادر العبارة ظهرا. هل نحضر المعطف الأخضر؟ لم يأت أحد أمس۔ ",
    "Thai": "เรือข้ามฟากออกตอนเที่ยง เอาเสื้อโค้ทสีเขียวมาด้วย เมื่อวานไม่มีใครมา ",
    "Thai without spaces": "เรือข้ามฟากออกตอนเที่ยงเอาเสื้อโค้ทสีเขียวมาด้วยเมื่อวานไม่มีใครมา",
    "Armenian": "Լաստանավը մեկնում է կեսօրին։ Բերեք կանաչ վերարկուն։ ",
    "Amharic": "ጀልባው እኩለ ቀን ላይ ይሄዳል። አረንጓዴውን ኮት አምጣ። ",
    "Burmese": "လှေသည်မွန်းတည့်ချိန်ထွက်သည်။မနေ့ကဘယ်သူမှမလာဘူး။",
    "Khmer": "សាឡាងចេញនៅថ្ងៃត្រង់។ ម្សិលមិញគ្មាននរណាមកទេ។ ",
    "Korean": "나룻배는 정오에 떠납니다. 초록색 외투를 가져오세요. 어제는 아무도 오지 않았습니다. ",
    "Greek": "Το φέρι φεύγει το μεσημέρι. Φέρε το πράσινο παλτό. ",
    "Hebrew": "המעבורת יוצאת בצהריים. תביא את המעיל הירוק. ",
    "no sentence at all": "ferry noon green coat mill nobody came yesterday water rope lantern gate ",
}


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([*TEXTS.values(), NEEDLE.needle, NEEDLE.question] * 8, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_needles_land_near_their_depth_in_any_script(tokenizer, text):
    asked = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    made = heads.needle_prompts(tokenizer, [NEEDLE], text * 40, length=500, depths=asked)
    assert not made.refused
    np.testing.assert_allclose([prompt.depth for prompt in made], asked, atol=0.1)
    for prompt in made:
        assert "�" not in tokenizer.decode(prompt.ids[: prompt.needle_span[0]])[-8:]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It is 6.02 today. Go.", ["It is 6.02 today.", "Go."]),
        ("See example.org now. Go.", ["See example.org now.", "Go."]),
        ('"Yes." "No?" Go', ['"Yes."', '"No?"']),
        ("Noon.[1] Well... (Yes.) Go", ["Noon.[1]", "Well...", "(Yes.)"]),
        ("« Oui. » Non.", ["« Oui. »", "Non."]),
        ("正午。「はい。」行く！", ["正午。", "「はい。」", "行く！"]),
        ("है। नहीं।", ["है।", "नहीं।"]),
        ("x = 1\n\ny = 2.5\nz", ["x = 1", "y = 2.5"]),
    ],
)
def test_where_sentences_end(text, sentences):
    ends = (0, *places(text)[0])
    assert [text[a:b].strip() for a, b in pairwise(ends)] == sentences


def test_a_token_that_spans_the_end_of_a_sentence_is_not_cut():
    made = Tokenizer(models.WordLevel({"a.": 0, ' "': 1, "b": 2, '" c': 3, "<unk>": 4}, unk_token="<unk>"))
    ids, (sentences, *_) = tokenized(PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>"), "a. b")
    assert sentences == (len(ids),) or sentences == ()


def test_a_depth_that_cannot_be_reached_is_refused_with_the_nearest(tokenizer):
    blob = "x" * 6000
    made = heads.needle_prompts(tokenizer, [NEEDLE], blob, length=500, depths=(0.5,))
    assert not made.prompts
    assert "depth 0.5 cannot be reached: the nearest place" in made.refused[0][1]
    units = [f"{'ferry noon ' * 60}." for _ in range(9)]
    made = heads.needle_prompts(tokenizer, [NEEDLE], units, length=500, depths=(0.4,), tolerance=0.1)
    assert "is at 0.51, more than 0.1" in made.refused[0][1]
    assert heads.needle_prompts(tokenizer, [NEEDLE], units, length=500, depths=(0.4,)).prompts
    with pytest.raises(BadPrompt, match="tolerance"):
        heads.needle_prompts(tokenizer, [NEEDLE], units, length=500, depths=(0.4,), tolerance=2)


@pytest.mark.parametrize(
    ("question", "space", "answer"),
    [
        ("What is it? It is", None, " amber coral"),
        ("What is it? It is ", None, " amber coral"),
        ("What is it?\nAnswer:\n", None, "amber coral"),
        ('What is it? It is "', None, "amber coral"),
        ("What is it? It is:\n", True, " amber coral"),
        ("What is it? It is_", False, "amber coral"),
    ],
)
def test_the_answer_follows_the_question_as_the_text_goes_on(tokenizer, question, space, answer):
    needle = heads.Needle(NEEDLE.needle, NEEDLE.answer, question, space=space)
    made = heads.needle_prompts(tokenizer, [needle], TEXTS["Korean"] * 20, length=300, depths=(0.5,))
    assert not made.refused
    (prompt,) = made
    assert tokenizer.decode(prompt.answer) == answer
    assert tokenizer.decode(prompt.answer_in_needle) == " amber coral"


def test_no_space_is_put_between_sentences_that_have_none(tokenizer):
    needle = heads.Needle("红灯笼的密码是琥珀珊瑚。", "琥珀珊瑚", "红灯笼的密码是什么？密码是")
    (prompt,) = heads.needle_prompts(tokenizer, [needle], TEXTS["Chinese"] * 40, length=400, depths=(0.5,))
    assert " " not in tokenizer.decode(prompt.ids)
    assert tokenizer.decode(prompt.answer) == "琥珀珊瑚"
    assert prompt.answer_in_needle == prompt.answer
